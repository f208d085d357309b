"""Do error bars hold? Coverage of 90 % intervals on held-out images: the table of
docs/uncertainty.md.

    python tests/benchmarks/uncertainty.py --out table.csv [--fields scattering mri black_hole]

For each field and method some images to learn a factor from (numbers 1000 and up, as `lmaps
calibrate` takes them), and others to test it on (numbers from 0). Results stay in a folder beside
the table, and an interrupted run goes on; `--report` prints the table of what there is. Settings
are those of the presets, on the cards' images, but for two that take long: MRI has 96 x 96 pixels,
scattering solves its local problems by singular vectors. Factors of the package come from the same
runs:

    lmaps calibrate scattering/linear_60 --preset uncertainty --samples 6 --images 10 \\
        --runs table-runs/scattering/draws
"""

import argparse
import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from lmaps_science import read_netcdf, reconstruct_many
from lmaps_science.metrics import calibration, object_pixels
from lmaps_science.runner.calibrate import learn, read_pairs

FIELDS = ["field", "method", "images", "modes_differ", "coverage", "coverage_error", "factor",
          "learned_on", "calibrated", "calibrated_error", "psnr_mean", "psnr_sample",
          "denoiser_calls"]  # fmt: skip
FIRST = 1000


@dataclass(frozen=True)
class Field:
    """A card, its series, and what is changed of it."""

    card: str
    series: str
    samples: int
    daps: dict
    overrides: dict = field(default_factory=dict)
    maxima: str = "default"  # the preset without draws, of one run a sample
    local: dict = field(default_factory=dict)  # the local solver, where not the preset's


def draw(local: str, **options) -> dict:
    return {"method": "perturb_and_map", "local": {"method": local, **options}}


CARDS = {
    "black_hole": Field(
        "black_hole/simulated",
        "phantom",
        8,
        {"levels": 40, "ode_steps": 1, "radius": 0.1, "sigma_max": 20.0, "sigma_min": 0.02,
         "local": {"method": "metropolis", "steps": 40}},
        maxima="single",
    ),
    "scattering": Field(
        "scattering/linear_60",
        "phantom",
        6,
        {"levels": 40, "ode_steps": 1, "radius": 0.5, "sigma_max": 20.0, "sigma_min": 0.005,
         "local": draw("exact_svd")},
        {"physics.svd": True},
        local={"method": "exact_svd"},
    ),
    "mri": Field(
        "mri/simulated",
        "brain",
        6,
        {"levels": 40, "ode_steps": 1, "sigma_max": 3.0, "sigma_min": 0.01,
         "local": draw("conjugate_gradient", iterations=15, tolerance=0.01)},
        {"kspace.npix": 96},
    ),
}  # fmt: skip
METHODS = ("draws", "maxima", "DAPS")


def run(name: str, method: str, folder: Path, each: str) -> None:
    """Reconstruct a series; what is there is left alone."""
    here, changes = CARDS[name], dict(CARDS[name].overrides)
    preset = "uncertainty" if method == "draws" else here.maxima
    if method == "DAPS":
        changes |= {"solver.method": "daps"}
        changes |= {f"solver.{key}": value for key, value in here.daps.items()}
    elif here.local:
        changes["solver.local.local" if method == "draws" else "solver.local"] = here.local
    report = reconstruct_many(
        here.card, (), folder, here.samples, each=each, overrides=changes, preset=preset,
        device="cpu", figures=False, further_runs=False,
    )  # fmt: skip
    print(report, flush=True)


def finished(folder: Path, each: str) -> list[Path]:
    """The folders of a series whose results are there."""
    series, numbers = each.split(":")
    first, last = map(int, numbers.split("-"))
    found = []
    for path in folder.glob(f"{series}*"):
        if path.joinpath("result.nc").exists():
            number = int(path.name.removeprefix(series))
            found += [path] if first <= number <= last else []
    return sorted(found)


def row(name: str, method: str, folder: Path, test: str, train: str) -> dict | None:
    """A row of the table, of what is there; None where too little is."""
    results = [read_netcdf(path / "result.nc") for path in finished(folder, test)]
    pairs, _ = read_pairs(finished(folder, test))
    if len(pairs) < 2:
        return None
    truths, samples = map(list, zip(*pairs, strict=True))
    masks = [object_pixels(drawn) for drawn in samples]

    def coverage(factor: float) -> tuple[str, str]:
        found = calibration(truths, samples, where=masks, levels=(0.9,), factor=factor)
        return f"{float(found['coverage'][0]):.3f}", f"{float(found['coverage_error'][0]):.3f}"

    found = {"field": name, "method": method, "images": len(pairs)}
    found |= dict(zip(("coverage", "coverage_error"), coverage(1.0), strict=True))
    learned, names = read_pairs(finished(folder, train))
    if len(learned) >= 5:
        factor = learn(learned, names, 0.9)["factor"]
        found |= {"factor": f"{factor:.2f}", "learned_on": len(learned)}
        found |= dict(zip(("calibrated", "calibrated_error"), coverage(factor), strict=True))
    differ = [int(d["mode"].values.max() > 0) if "mode" in d else 0 for d in results]
    found["modes_differ"] = sum(differ)
    scores = [d.attrs["metrics_of_mean"]["psnr"] for d in results]
    found["psnr_mean"] = f"{np.mean(scores):.2f}"
    found["psnr_sample"] = f"{np.mean([d['psnr'].values.mean() for d in results]):.2f}"
    found["denoiser_calls"] = results[0].attrs["denoiser_calls"]
    return found


def report(out: Path, test: str, train: str) -> None:
    """Write the table, and print it."""
    rows = []
    for name, here in CARDS.items():
        for method in METHODS:
            folder = runs(out) / name / method
            found = row(name, method, folder, f"{here.series}:{test}", f"{here.series}:{train}")
            rows += [found] if found else []
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    print(f"\n| {' | '.join(FIELDS)} |\n{'|---' * len(FIELDS)}|")
    for one in rows:
        print(f"| {' | '.join(str(one.get(key, '')) for key in FIELDS)} |")


def runs(out: Path) -> Path:
    return out.with_name(f"{out.stem}-runs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fields", nargs="+", default=list(CARDS), choices=CARDS)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--test", type=int, default=5, help="held-out images")
    parser.add_argument("--learn", type=int, default=10, help="images for the factor, or 0")
    parser.add_argument(
        "--learned", nargs="+", default=METHODS, choices=METHODS, help="methods to learn it for"
    )
    parser.add_argument("--report", action="store_true", help="of what there is")
    arguments = parser.parse_args()
    test = f"0-{arguments.test - 1}"
    train = f"{FIRST}-{FIRST + arguments.learn - 1}"
    if not arguments.report:
        for name in arguments.fields:
            for method in arguments.methods:
                folder = runs(arguments.out) / name / method
                learned = arguments.learn > 0 and method in arguments.learned
                for numbers in (test, train) if learned else (test,):
                    run(name, method, folder, f"{CARDS[name].series}:{numbers}")
    report(arguments.out, test, train)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
