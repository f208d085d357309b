"""Accuracy and cost of every method on linear inverse scattering: tables as the LMAPS paper's 5.

    python tests/benchmarks/scattering_accuracy.py --out table.csv [--receivers 360 180 60] ...

Nuclei of seed 2, noise 1e-4; PSNR and SSIM of the contrast clipped to [0, 1], relative data misfit.
The methods are to be tuned on seed 3 (--phantom-seed 3). Robustness, at 180
receivers with --cases: noise 10 and 100 times larger, noise mis-stated by 2, half of the receivers
or of the transmitters lost, an aperture of 180 degrees. One sample each.

A row that is already in the file is not computed again, so an interrupted run goes on. Local
problems are solved by singular vectors, which take about two minutes and 3.5 GB for the first image
of each geometry; where receivers or transmitters are lost, at random for each image, and with
--no-svd, they are solved by conjugate gradients, and DDRM, DDNM and "LMAPS, SVD" left out.
--npix 32 --prior gaussian tries everything in a minute.
"""

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lmaps_science import load_problem, sample
from lmaps_science.cards.load import load_card
from lmaps_science.local_map import ConjugateGradient
from lmaps_science.problems.scattering.baselines import (
    filtered_back_propagation,
    fista_tv,
    tikhonov,
)
from lmaps_science.solvers import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    LMAPS,
    DiffPIR,
    ExactSVD,
    PerturbAndMAP,
    PiGDM,
    PnPDM,
    REDDiff,
)

SCORES = ["psnr", "ssim", "relative_misfit"]
FIELDS = ["case", "receivers", "image", "method", *SCORES, "operator_calls", "denoiser_calls",
          "seconds"]  # fmt: skip
CG = ConjugateGradient(30, 1e-3)


def methods(svd: bool) -> dict:
    """Every diffusion method, its linear problems solved by singular vectors or by CG."""
    local = ExactSVD() if svd else CG
    draw = PerturbAndMAP(local)
    levels = {"sigma_max": 20.0, "sigma_min": 0.005}
    found = {
        "LMAPS, CG": LMAPS(40, kappa=3.0, local=CG, **levels),
        "LMAPS, Table 4": "paper",
        "PiGDM": PiGDM(100, prior_std=0.4, local=local),
        "DPS": DPS(300),
        "DiffPIR": DiffPIR(100, 1.0, local=local),
        "RED-diff": REDDiff(500, 1e-4, 0.02),
        "PnP-DM": PnPDM(40, prior_steps=5, local=draw, rho_max=1.0),
        "DAPS": DAPS(40, ode_steps=3, radius=0.5, local=draw, **levels),
    }
    if svd:
        exact = LMAPS(40, kappa=3.0, local=local, **levels)
        found |= {"LMAPS, SVD": exact, "DDRM": DDRM(20), "DDNM": DDNM(100)}
    return found


CLASSICAL = {
    "FBP": lambda misfit: filtered_back_propagation(misfit, born(misfit).geometry),
    "Tikhonov": lambda misfit: tikhonov(misfit, 1e-3),
    "FISTA-TV": lambda misfit: fista_tv(misfit, 3e-4, iterations=200),
}
CASES = {
    "standard": {},
    "noise x 10": {"observation.noise": 1e-3},
    "noise x 100": {"observation.noise": 1e-2},
    "noise stated x 2": {"sigma_factor": 2.0},
    "noise stated / 2": {"sigma_factor": 0.5},
    "half the receivers": {"observation.missing_receivers": 0.5},
    "half the transmitters": {"observation.missing_transmitters": 0.5},
    "aperture 180": {"observation.aperture": 180.0},
}


def born(misfit):
    """The operator that knows its geometry."""
    return getattr(misfit.operator, "operator", misfit.operator)


def reconstruct(problem, name: str, receivers: int, svd: bool) -> tuple[np.ndarray, dict]:
    """An image (H, W) of the contrast, and the calls it took."""
    if name in CLASSICAL:
        return CLASSICAL[name](problem.physical)[0, 0].numpy(), {}
    solver = methods(svd)[name]
    if solver == "paper":
        solver = load_card(f"scattering/linear_{receivers}").solver("paper")
    try:
        result = sample(problem, solver, 1, seed=0, progress=False)
    except FloatingPointError:  # the paper's steps are stable on its own grid alone
        return np.full(problem.image_shape[1:], np.nan), {}
    calls = {key: result.counts[key] for key in ("operator_calls", "denoiser_calls")}
    return result.samples[0, 0], calls


def todo(arguments) -> Iterator[tuple[str, int, int, dict]]:
    """(case, receivers, image, overrides), robustness at 180 receivers alone."""
    for case in arguments.cases:
        for receivers in arguments.receivers if case == "standard" else [180]:
            for k in range(arguments.first, arguments.images):
                overrides = {
                    "observation.image": f"phantom:{k}",
                    "observation.phantom_seed": arguments.phantom_seed,
                    "observation.seed": k,
                    "image.npix": arguments.npix,
                    **CASES[case],
                }
                yield case, receivers, k, overrides


def run(arguments) -> None:
    """Compute the rows that are missing."""

    def wanted(name: str) -> bool:
        return not arguments.methods or any(part in name for part in arguments.methods)

    done = set()
    if arguments.out.exists():
        with arguments.out.open() as file:
            done = {tuple(r[k] for k in FIELDS[:4]) for r in csv.DictReader(file)}
    with arguments.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not done:
            writer.writeheader()
        for case, receivers, k, overrides in todo(arguments):
            # A mask of its own for every image would need singular vectors of its own.
            svd = not (arguments.no_svd or any("missing" in key for key in overrides))
            names = [n for n in (*CLASSICAL, *methods(svd)) if wanted(n)]
            keys = {name: (case, str(receivers), str(k), name) for name in names}
            missing = [n for n, key in keys.items() if key not in done]
            if missing:
                problem = load_problem(
                    f"scattering/linear_{receivers}",
                    prior=arguments.prior,
                    overrides={**overrides, "physics.svd": svd},
                )
            for name in missing:
                started = time.perf_counter()
                image, calls = reconstruct(problem, name, receivers, svd)
                seconds = f"{time.perf_counter() - started:.2f}"
                found = problem.evaluate(image[None])
                scores = {n: f"{found[n][0]:.5f}" for n in SCORES}
                row = dict(zip(FIELDS, keys[name], strict=False))
                writer.writerow({**row, **scores, **calls, "seconds": seconds})
                file.flush()


def report(path: Path) -> None:
    """The tables: mean and standard deviation over images."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for case, receivers in dict.fromkeys((r["case"], r["receivers"]) for r in rows):
        here = [r for r in rows if (r["case"], r["receivers"]) == (case, receivers)]
        print(f"\n{case}, {receivers} receivers")
        print(f"| method | {' | '.join(SCORES)} | operator calls | s | n |\n" + "|---" * 7 + "|")
        for method in dict.fromkeys(r["method"] for r in here):
            these = [r for r in here if r["method"] == method]
            cells = []
            for name in SCORES:
                values = np.array([float(r[name]) for r in these])
                digits = 2 if name == "psnr" else 3
                spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
                cells.append(f"{values.mean():.{digits}f}{spread}")
            calls = [float(r["operator_calls"]) for r in these if r["operator_calls"]]
            cells.append(f"{np.mean(calls):,.0f}" if calls else "-")
            cells.append(f"{np.mean([float(r['seconds']) for r in these]):.1f}")
            print(f"| {method} | {' | '.join(cells)} | {len(these)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--receivers", type=int, nargs="+", default=[360, 180, 60])
    parser.add_argument("--cases", nargs="+", default=["standard"], choices=CASES)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="image, so that two can share them")
    parser.add_argument("--phantom-seed", type=int, default=2, help="3: to tune")
    parser.add_argument("--npix", type=int, default=128)
    parser.add_argument("--methods", nargs="+", help="only these (parts of names)")
    parser.add_argument("--no-svd", action="store_true", help="no singular vectors")
    parser.add_argument("--prior", help="another prior than the shipped one")
    arguments = parser.parse_args()
    run(arguments)
    report(arguments.out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
