"""Permittivities of simulated discs by full-wave scattering: a table of problems/scattering.

    python tests/benchmarks/full_wave_accuracy.py --out table.csv [--targets Twin] [--sides 0.15]

Targets as the Institut Fresnel's of foam and plastic (`Ext`: two discs side by side, `Int`: one in
the other, `Twin`: both at once), and two of three discs of unlike permittivity, apart (`Three`) and
nested (`Nested`). 18 transmitters and 241 receivers on a circle of 1.67 m, the frequencies and the
preset `default` of the card `fresnel`, 3 % noise. The fields are computed on pixels half as wide as
the image's, so that the data are not of the grid that explains them (`--finer 1`: they are).
Pixels of 3.15 mm and less on each side, as the card's on its own.

The score is the largest relative error of a permittivity, all discs of a target; each disc's value
is that of a fit of blurred discs to the image, which starts at the true ones. One sample; the seed
is that of the noise and of the sampler. A row that is already in the file is not computed again.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch

from lmaps_science import load_problem, sample

FOAM = ("foam", (0.0, 0.0), 80.0, 1.45)
INSIDE, OUTSIDE = ("rod", (-5.0, 0.0), 31.0, 3.0), ("plastic", (-55.5, 0.0), 31.0, 3.0)
TARGETS = {
    "Ext": [FOAM, OUTSIDE],
    "Int": [FOAM, INSIDE],
    "Twin": [FOAM, OUTSIDE, INSIDE],
    "Three": [
        ("low", (25.0, 20.0), 50.0, 1.5),
        ("middle", (-32.0, 18.0), 36.0, 2.2),
        ("high", (0.0, -38.0), 31.0, 3.0),
    ],
    "Nested": [
        ("low", (0.0, 0.0), 90.0, 1.3),
        ("middle", (18.0, 10.0), 40.0, 2.0),
        ("high", (-20.0, -12.0), 31.0, 3.0),
    ],
}
PIXELS = {0.15: 48, 0.19: 60, 0.22: 70}
FIELDS = ["target", "side", "npix", "seed", "worst_error_percent", "permittivities",
          "misfit_percent", "verdict", "operator_calls", "seconds", "why"]  # fmt: skip


def problem(target: str, side: float, npix: int, seed: int, arguments):
    """What the card makes of this target's fields, computed on a finer grid."""
    keys = ("name", "centre_mm", "diameter_mm", "permittivity")
    discs = [dict(zip(keys, disc, strict=True)) for disc in TARGETS[target]]
    overrides = {
        "observation": {
            "kind": "simulation",
            "image": f"target:{target}",
            "transmitters": arguments.views,
            "receivers": 241,
            "radius": 1.67,
            "frequencies_ghz": [2.0, 3.0, 4.0, 5.0, 6.0],
            "noise": 0.0,
            "relative_noise": arguments.noise,
            "seed": seed,
        },
        "targets": {target: discs},
        "image.side": side,
        **dict(one.split("=", 1) for one in arguments.set),
    }

    def of(pixels: int):
        return load_problem("scattering/fresnel", overrides={**overrides, "image.npix": pixels})

    coarse = of(npix)
    if arguments.finer == 1:
        return coarse
    fine = of(arguments.finer * npix).physical.y
    return coarse.with_data(fine.to(coarse.physical.y))


def row(target: str, side: float, npix: int, seed: int, arguments) -> dict:
    """One run and its score."""
    known = problem(target, side, npix, seed, arguments)
    solver = known.card.solver(arguments.preset)
    started = time.process_time()
    try:
        result = sample(known, solver, 1, seed, progress=False)
    except (RuntimeError, FloatingPointError) as error:
        return {"verdict": type(error).__name__, "why": str(error), "worst_error_percent": "nan"}
    seconds = time.process_time() - started
    data = known.analyse(result)
    true = {name: permittivity for name, _, _, permittivity in TARGETS[target]}
    found = {name: float(data[f"{name}_permittivity"][0]) for name in true}
    errors = [abs(found[name] / true[name] - 1) for name in true]
    if arguments.images:
        arguments.images.mkdir(parents=True, exist_ok=True)
        name = f"{target}_{side}_{npix}_{seed}.npy"
        np.save(arguments.images / name, result.samples[0, 0])
    return {
        "worst_error_percent": f"{100 * np.max(errors):.2f}",
        "permittivities": " ".join(f"{name}={value:.3f}" for name, value in found.items()),
        "misfit_percent": f"{100 * float(data['relative_misfit'][0]):.2f}",
        "verdict": data.attrs["verdict"],
        "operator_calls": result.counts["operator_calls"],
        "seconds": f"{seconds:.0f}",
        "why": "; ".join(data.attrs["verdict_reasons"]) if data.attrs["verdict"] != "good" else "",
    }


def run(arguments) -> None:
    """Compute the rows that are missing."""
    done = set()
    if arguments.out.exists():
        with arguments.out.open() as file:
            done = {tuple(r[key] for key in FIELDS[:4]) for r in csv.DictReader(file)}
    with arguments.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not done:
            writer.writeheader()
        for seed in arguments.seeds:
            for side in arguments.sides:
                npix = arguments.npix or PIXELS.get(side, round(side / 0.00315))
                for target in arguments.targets:
                    key = (target, side, npix, seed)
                    if tuple(map(str, key)) not in done:
                        found = row(*key, arguments)
                        writer.writerow(dict(zip(FIELDS, key, strict=False)) | found)
                        file.flush()


def report(path: Path) -> None:
    """The table: each disc's mean and standard deviation over seeds, and the worst error of all."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    columns = ["target", "side (mm), pixels", "permittivities (true)", "worst error", "misfit",
               "verdicts", "operator calls", "CPU s", "runs"]  # fmt: skip
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for key in dict.fromkeys((r["target"], r["side"], r["npix"]) for r in rows):
        these = [r for r in rows if (r["target"], r["side"], r["npix"]) == key]
        done = [r for r in these if r["permittivities"]]
        found = [dict(part.split("=") for part in r["permittivities"].split()) for r in done]
        discs = []
        for name, _, _, true in TARGETS[key[0]]:
            values = np.array([float(each[name]) for each in found] or [np.nan])
            spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
            discs.append(f"{values.mean():.3f}{spread} ({true:g})")
        words = [r["verdict"] for r in these]
        misfit, calls, seconds = (
            np.mean([float(r[name]) for r in done] or [np.nan])
            for name in ("misfit_percent", "operator_calls", "seconds")
        )
        cells = [
            key[0],
            f"{1e3 * float(key[1]):g}, {key[2]}",
            ", ".join(discs),
            f"{np.max([float(r['worst_error_percent']) for r in these]):.1f} %",
            f"{misfit:.1f} %",
            ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)),
            f"{calls:.0f}",
            f"{seconds:.0f}",
            str(len(these)),
        ]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--sides", type=float, nargs="+", default=[0.15, 0.19], help="metres")
    parser.add_argument("--npix", type=int, help="of the image; default: pixels of 3.15 mm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--views", type=int, default=18)
    parser.add_argument("--noise", type=float, default=0.03, help="relative")
    parser.add_argument("--finer", type=int, default=2, help="grid of the data, times npix")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--set", nargs="+", default=[], help="other settings, KEY=VALUE")
    parser.add_argument("--images", type=Path, help="keep the images (.npy) in this folder")
    arguments = parser.parse_args()
    run(arguments)
    report(arguments.out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
