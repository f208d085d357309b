"""Is a population of eight worth more than one run? Held-out images, DPS beside it, and M87*.

    python tests/benchmarks/black_hole_population.py --out table.csv [--images 20] [--rings 5]

Images are phantoms of seed 101, on which nothing was tuned, observed as in inversebench_100 (all of
the data). A row that is already in the file is not computed again, so an interrupted run goes on.
Of M87* (5 April 2017, low band): whether a run's image has a ring, by the ring test's criterion,
and its correlation with a ring of 42 microarcseconds. Needs the EHT's file ($LMAPS_DATA or `lmaps
data`). The tables give differences to the first method in pairs, with their standard errors.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch

from lmaps_science import load_problem, metrics, sample
from lmaps_science.problems.black_hole.ring_test import has_ring
from lmaps_science.solvers import DPS, LMAPS, Population

ONE = LMAPS(40, sigma_max=20.0, sigma_min=0.02, covariance="prior")
METHODS = {
    "one": (ONE, 4),
    "population": (Population(ONE, 8, {0.66: 1}), 1),
    "dps": (DPS(300), 1),
    "thinned": (Population(ONE, 8, {2: 6, 1: 4, 0.66: 1}), 1),
}
SCORES = ["psnr", "blur_psnr_15", "chi2_cphase", "chi2_logcamp", "ring", "correlation"]
CALLS = ["denoiser_calls", "denoiser_vjps", "operator_calls"]
FIELDS = ["what", "image", "method", "sample", *SCORES, *CALLS, "seconds"]


def phantom(k):
    return load_problem(
        "black_hole/inversebench_100",
        overrides={
            "observation.image": f"phantom:{k}",
            "observation.phantom_seed": 101,
            "observation.seed": k,
            "metrics": "exact",
        },
    )


def ring_scores(problem, images):
    """Whether images (n, H, W) have a ring, and their correlation with one of 42 uas."""
    at = (np.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2) * problem.pixel_uas
    radius = np.hypot(at[:, None], at)
    ring = np.exp(-4 * np.log(2) * ((radius - 21) / 15) ** 2)[None].repeat(len(images), 0)
    peaks = images.max((1, 2), keepdims=True)
    aligned = metrics.align(torch.as_tensor(images / peaks), torch.as_tensor(ring).float())
    correlation = metrics.nxcorr(aligned[:, 0], torch.as_tensor(ring).float())
    seen = has_ring(images, problem.pixel_uas, problem.resolution_uas)
    return {"ring": seen.astype(float), "correlation": correlation.numpy()}


def rows(what, image, method, problem, seed=0):
    solver, n = METHODS[method]
    n = 1 if what == "m87" else n
    started = time.perf_counter()
    result = sample(problem, solver, n, seed=seed, progress=False)
    seconds = (time.perf_counter() - started) / n
    images = result.samples[:, 0]
    scores = problem.evaluate(images)
    if what == "m87":
        scores |= ring_scores(problem, images)
    calls = {name: result.counts[name] for name in CALLS}
    for k in range(n):
        values = {name: f"{scores[name][k]:.4f}" for name in SCORES if name in scores}
        yield {"what": what, "image": image, "method": method, "sample": k, **values, **calls,
               "seconds": f"{seconds:.1f}"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rings", type=int, default=5, help="runs of M87*, each with its own seed")
    parser.add_argument("--methods", nargs="+", default=["one", "population", "dps"])
    arguments = parser.parse_args()
    done = set()
    if arguments.out.exists():
        with arguments.out.open() as file:
            done = {(r["what"], r["image"], r["method"]) for r in csv.DictReader(file)}
    work = [("m87", k) for k in range(arguments.rings)]
    work += [("phantom", k) for k in range(arguments.images)]
    with arguments.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not done:
            writer.writeheader()
        for what, k in work:
            for method in arguments.methods:
                if (what, str(k), method) in done or (what == "m87" and method == "dps"):
                    continue
                problem = phantom(k) if what == "phantom" else load_problem("black_hole/m87_2017")
                writer.writerows(rows(what, k, method, problem, k if what == "m87" else 0))
                file.flush()
    report(arguments.out)


def report(path: Path) -> None:
    """The tables: means and standard deviations over images, differences in pairs."""
    with path.open() as file:
        table = list(csv.DictReader(file))

    def mean(what, method, name):
        """Of each image, over its samples."""
        of: dict[str, list[float]] = {}
        for row in table:
            if row["what"] == what and row["method"] == method and row[name]:
                of.setdefault(row["image"], []).append(float(row[name]))
        return {image: np.mean(values) for image, values in of.items()}

    methods = list(dict.fromkeys(row["method"] for row in table))
    print("| method | images | PSNR | blur-PSNR 15 | difference | blurred | network calls | s |")
    print("|---|---|---|---|---|---|---|---|")
    for method in methods:
        cells = []
        for name in ("psnr", "blur_psnr_15"):
            here, first = mean("phantom", method, name), mean("phantom", methods[0], name)
            values = np.array(list(here.values()))
            pairs = np.array([here[k] - first[k] for k in here if k in first])
            error = pairs.std(ddof=1) / len(pairs) ** 0.5
            cells.append((f"{values.mean():.1f} ± {values.std(ddof=1):.1f}",
                          f"{pairs.mean():+.1f} ± {error:.1f}"))  # fmt: skip
        calls, vjps, seconds = (
            np.mean(list(mean("phantom", method, name).values()))
            for name in ("denoiser_calls", "denoiser_vjps", "seconds")
        )
        print(f"| {method} | {len(values)} | {cells[0][0]} | {cells[1][0]} | {cells[0][1]} | "
              f"{cells[1][1]} | {calls:.0f} + {vjps:.0f} VJPs | {seconds:.0f} |")  # fmt: skip
    for method in methods:
        rings = list(mean("m87", method, "ring").values())
        if rings:
            near = np.mean(list(mean("m87", method, "correlation").values()))
            print(
                f"M87*, {method}: ring in {sum(rings):.0f} of {len(rings)}, correlation {near:.2f}"
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
