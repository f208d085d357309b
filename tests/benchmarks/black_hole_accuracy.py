"""Accuracy and cost of every method on held-out images: the table of problems/black_hole/README.md.

    python tests/benchmarks/black_hole_accuracy.py --out table.csv [--images 20] [--ratios 3 10 100]

Needs the EHT's M87* file for its coverage ($LMAPS_DATA or `lmaps data`). A row that is already in
the file is not computed again, so an interrupted run goes on. Images are phantoms of seed 2; the
methods were tuned on seeds 3 and up. With `--source compact` they are of wider kinds, most of which
the prior of the cards was never trained on; `--prior` takes another one.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch

from lmaps_science import load_problem, sample
from lmaps_science.cards.load import load_card
from lmaps_science.local_map import LBFGS, BarzilaiBorwein
from lmaps_science.problems.black_hole.baselines import regularised_maximum_likelihood
from lmaps_science.problems.black_hole.data import PHANTOMS
from lmaps_science.solvers import (
    DAPS,
    DPS,
    LMAPS,
    DiffPIR,
    Population,
    REDDiff,
)

FIELDS = ["ratio", "image", "method", "psnr", "blur_psnr_15", "nxcorr", "chi2_cphase",
          "chi2_logcamp", "operator_calls", "denoiser_calls", "seconds"]  # fmt: skip


def methods(ratio: int) -> dict:
    paper = load_card(f"black_hole/inversebench_{ratio}").solver("paper")
    ours = LMAPS(40, sigma_max=20.0, sigma_min=0.02, covariance="prior")
    table = {
        "LMAPS, prior covariance, L-BFGS": (ours, 1),
        "the same, 8 samples": (ours, 8),
        "population": (Population(ours, particles=8, keep={0.66: 1}), 1),
        "LMAPS, Table 4, L-BFGS": (LMAPS(50, paper.kappa1, paper.kappa2, local=LBFGS()), 1),
        "LMAPS, Table 4, Barzilai-Borwein": (
            LMAPS(50, paper.kappa1, paper.kappa2, local=BarzilaiBorwein(20)),
            1,
        ),
        "LMAPS, Table 4, gradient steps": (paper, 1),
        "DiffPIR": (DiffPIR(100, regularisation=1.0, zeta=1.0), 1),
        "DAPS": (DAPS(radius=0.1), 1),
        "RED-diff": (REDDiff(1000, 1000.0, 0.02), 1),
        "DPS": (DPS(500), 1),
    }
    return table


def score(problem, method, solver, n):
    """Rows of scores; of several samples, the best fit and the mean of the most frequent mode."""
    started = time.perf_counter()
    if solver is None:
        image = regularised_maximum_likelihood(problem.observation, 64, 160.0, flux=problem.flux)
        scores = {method: {k: float(v[0]) for k, v in problem.evaluate(image.values[None]).items()}}
        calls = {"operator_calls": "", "denoiser_calls": 0}
    else:
        result = sample(problem, solver, n, seed=0, progress=False)
        calls = {k: result.counts[k] * n for k in ("operator_calls", "denoiser_calls")}
        if n == 1:  # the ring test of `analyse` costs more than the sample
            scores = {method: {k: float(v[0]) for k, v in problem.scores(result).items()}}
        else:
            data = problem.analyse(result)
            best = {k: float(data[k][data.attrs["best"]]) for k in FIELDS[3:8] if k in data}
            mean = data.attrs["metrics_of_mean"]
            scores = {f"{method}: best fit": best, f"{method}: mean": mean}
    seconds = f"{time.perf_counter() - started:.2f}"
    for name, of in scores.items():
        values = {k: f"{of[k]:.4f}" for k in FIELDS[3:8] if k in of}
        yield {"method": name, **values, **calls, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--ratios", type=int, nargs="+", default=[100, 10, 3])
    parser.add_argument("--methods", nargs="+", help="only these (parts of names)")
    parser.add_argument("--source", default="phantom", choices=list(PHANTOMS))
    parser.add_argument("--prior", help="another prior than the card's")
    parser.add_argument("--seed", type=int, default=2, help="of the phantoms")
    arguments = parser.parse_args()
    done = set()
    if arguments.out.exists():
        with arguments.out.open() as file:
            done = {(r["ratio"], r["image"], r["method"]) for r in csv.DictReader(file)}
    with arguments.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not done:
            writer.writeheader()
        for ratio in arguments.ratios:
            table = {**methods(ratio), "RML (ehtim)": (None, 1)}
            for name, (solver, n) in table.items():
                if arguments.methods and not any(part in name for part in arguments.methods):
                    continue
                for k in range(arguments.images):
                    if any((str(ratio), str(k), row) in done for row in (name, f"{name}: mean")):
                        continue
                    problem = load_problem(
                        f"black_hole/inversebench_{ratio}",
                        prior=arguments.prior,
                        overrides={
                            "observation.image": f"{arguments.source}:{k}",
                            "observation.phantom_seed": arguments.seed,
                            "observation.seed": k,
                            "metrics": "exact",
                        },
                    )
                    for row in score(problem, name, solver, n):
                        writer.writerow({"ratio": ratio, "image": k, **row})
                    file.flush()
    report(arguments.out)


def report(path: Path) -> None:
    """The table: means over images, medians of chi2."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for ratio in dict.fromkeys(r["ratio"] for r in rows):
        print(f"\n{ratio} % of the data")
        print("| method | PSNR | blur-PSNR 15 | chi2_cp | chi2_ca | operator calls | s | n |")
        print("|---|---|---|---|---|---|---|---|")
        for method in dict.fromkeys(r["method"] for r in rows if r["ratio"] == ratio):
            these = [r for r in rows if r["ratio"] == ratio and r["method"] == method]

            def values(name: str, these: list = these) -> np.ndarray:
                return np.array([float(r[name]) for r in these if r[name]])

            psnr, blur = values("psnr"), values("blur_psnr_15")
            chi2 = [values(k) for k in ("chi2_cphase", "chi2_logcamp")]
            medians = [f"{np.median(c):.2f}" if len(c) else "-" for c in chi2]
            calls = values("operator_calls")
            print(
                f"| {method} | {psnr.mean():.2f} ± {psnr.std(ddof=1):.2f} | {blur.mean():.2f} ± "
                f"{blur.std(ddof=1):.2f} | {' | '.join(medians)} | "
                f"{f'{calls.mean():.0f}' if len(calls) else '-'} | "
                f"{values('seconds').mean():.1f} | {len(these)} |"
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
