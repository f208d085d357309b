"""Accuracy and cost of every method on MRI: the tables of problems/mri/README.md.

    python tests/benchmarks/mri_accuracy.py --out table.csv [--setting simulated real lines] ...

* simulated: heads of seed 2 (extra `brain`, Debian's mricron-data), 8 coils, noise 0.02, lines
  masked four and eight times; the methods were tuned on seed 3. PSNR and SSIM against the truth.
* real: the SigPy brain slice as it was acquired, a tenth of its samples held out (seeds 0 to 4).
* lines: the same slice with its zeros taken for data, and lines left out of that (R = 4 and 8, both
  axes, seeds 0 to 4); PSNR and SSIM against the zero-filled image.
* full: the fully sampled brain slice of the ESPIRiT examples (`--full FILE`: full.cfl), lines along
  its last axis left out (R = 4 and 8, seeds 0 to 4); PSNR and SSIM against the image of all lines.
* tuning: three heads of seed 3, on which the weights of the classical methods are chosen.

A row that is already in the file is not computed again, so an interrupted run goes on.
"""

import argparse
import csv
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lmaps_science import load_problem, sample
from lmaps_science.cards.load import load_card
from lmaps_science.io import read_cfl, write_cfl
from lmaps_science.local_map import ConjugateGradient
from lmaps_science.problems.mri.baselines import sense_reconstruction
from lmaps_science.solvers import (
    DAPS,
    DCDP,
    DPS,
    AnnealedLangevin,
    DiffPIR,
    PerturbAndMAP,
    PiGDM,
    PnPDM,
    REDDiff,
    ScoreMRI,
)

SCORES = ["psnr", "ssim", "held_out_error", "chi2"]
FIELDS = ["setting", "case", "image", "method", *SCORES, "operator_calls", "denoiser_calls",
          "seconds"]  # fmt: skip
CG = ConjugateGradient(15, 1e-2)
METHODS = {
    "LMAPS, one sample": (None, 1),
    "LMAPS, mean of 4": (None, 4),
    "LMAPS, Table 4": (load_card("mri/inversebench").solver("paper"), 1),
    "DiffPIR": (DiffPIR(60, 1.0, local=CG), 1),
    "PiGDM": (PiGDM(50, prior_std=0.4, local=CG), 1),
    "DPS": (DPS(200), 1),
    "DAPS": (DAPS(40, ode_steps=1, local=PerturbAndMAP(CG), sigma_max=3.0, sigma_min=0.01), 1),
    "DCDP": (DCDP(100, discrepancy=0.903, sigma_max=9.18, sigma_min=0.0145), 1),
    "PnP-DM": (PnPDM(30, prior_steps=5, local=PerturbAndMAP(CG), rho_max=1.0), 1),
    "RED-diff": (REDDiff(300, 0.25, 0.02), 1),
    "annealed Langevin": (AnnealedLangevin(100, sigma_max=3.0), 1),
    "Score-MRI": (ScoreMRI(150, sigma_max=3.0), 1),
}
CLASSICAL = {  # weights tuned on seed 3 of the simulated setting: the best mean of R = 4 and 8
    "zero-filled": None,
    "CG-SENSE": ("l2", 0.01),
    "wavelet": ("wavelet", 0.003),
    "TV": ("tv", 0.003),
}
SPARSE = (0.0008, 0.0015, 0.003, 0.006, 0.012, 0.025)
WEIGHTS = {"l2": (0.003, 0.01, 0.03, 0.1), "wavelet": SPARSE, "tv": SPARSE}
TUNING = {f"{kind} {weight}": (kind, weight) for kind in WEIGHTS for weight in WEIGHTS[kind]}
BART = {"wavelet (BART)": "W:3:0:0.005", "TV (BART)": "T:3:0:0.005"}


def cases(setting: str, images: int) -> Iterator[tuple[str, int, str, dict]]:
    """(case, image or seed, card, overrides)."""
    if setting in ("simulated", "tuning"):
        for acceleration in (4, 8):
            for k in range(images if setting == "simulated" else 3):
                yield (
                    f"R = {acceleration}",
                    k,
                    "mri/simulated",
                    {
                        "kspace.image": f"brain:{k}",
                        "kspace.phantom_seed": 2 if setting == "simulated" else 3,
                        "kspace.seed": k,
                        "sampling.acceleration": acceleration,
                        "sampling.seed": k,
                    },
                )
    elif setting == "real":
        for seed in range(5):
            overrides = {"sampling.hold_out": 0.1, "sampling.seed": seed}
            yield "10 % held out", seed, "mri/brain_raw", overrides
    elif setting == "full":
        for acceleration in (4, 8):
            for seed in range(5):
                lines = {"sampling.acceleration": acceleration, "sampling.axis": -1}
                yield f"R = {acceleration}", seed, "mri/kspace", {**lines, "sampling.seed": seed}
    else:
        for acceleration in (4, 8):
            for axis in (-2, -1):
                for seed in range(5):
                    yield (
                        f"R = {acceleration}, axis {axis}",
                        seed,
                        "mri/brain_lines",
                        {
                            "sampling.acceleration": acceleration,
                            "sampling.axis": axis,
                            "sampling.seed": seed,
                        },
                    )


def reconstruct(problem, name: str) -> tuple[np.ndarray, dict]:
    """An image (2, H, W), and the calls it took."""
    if name in CLASSICAL | TUNING:
        settings = (CLASSICAL | TUNING)[name]
        if settings is None:
            return problem.zero_filled.values, {}
        return sense_reconstruction(problem.misfit, *settings).numpy()[0], {}
    if name in BART:
        return bart(problem, BART[name]), {}
    solver, n = METHODS[name]
    result = sample(problem, solver or problem.solver, n, seed=0, progress=False)
    image = problem.analyse(result)["image_mean"].values
    return image, {k: result.counts[k] * n for k in ("operator_calls", "denoiser_calls")}


def bart(problem, regulariser: str) -> np.ndarray:
    """`bart pics` on the same k-space and maps."""
    operator = problem.misfit.operator
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("y", problem.misfit.y[0]), ("maps", operator.maps)):
            # BART's order is x, y, z, coil
            write_cfl(f"{folder}/{name}", array.numpy().transpose(1, 2, 0)[:, :, None, :])
        command = ["bart", "pics", "-S", "-i", "100", "-R", regulariser, f"{folder}/y"]
        command += [f"{folder}/maps", f"{folder}/x"]
        subprocess.run(command, check=True, capture_output=True)
        image = np.squeeze(read_cfl(f"{folder}/x"))
    # Its transform has another sign where n / 2 is odd.
    real, imaginary = problem.zero_filled.values
    image = image * np.exp(1j * np.angle(np.vdot(image, real + 1j * imaginary)))
    return np.stack([image.real, image.imag])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--setting", nargs="+", default=["simulated", "real", "lines"])
    parser.add_argument("--full", type=Path, help="the file of the setting `full`")
    parser.add_argument("--images", type=int, default=20, help="of the simulated setting")
    parser.add_argument("--methods", nargs="+", help="only these (parts of names)")
    parser.add_argument("--prior", help="another prior than the shipped one")
    changed = "change the cards, e.g. maps.source=full; the case names it"
    parser.add_argument("--set", nargs="+", default=[], dest="changes", help=changed)
    arguments = parser.parse_args()
    changes = dict(change.split("=", 1) for change in arguments.changes)
    chosen = [*CLASSICAL, *(BART if shutil.which("bart") else ()), *METHODS]
    if arguments.methods:
        chosen = [n for n in chosen if any(part in n for part in arguments.methods)]
    done = set()
    if arguments.out.exists():
        with arguments.out.open() as file:
            done = {tuple(r[k] for k in FIELDS[:4]) for r in csv.DictReader(file)}
    with arguments.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not done:
            writer.writeheader()
        for setting in arguments.setting:
            names = list(TUNING) if setting == "tuning" else chosen
            data = arguments.full if setting == "full" else None
            for case, k, card, overrides in cases(setting, arguments.images):
                case = ", ".join([case, *arguments.changes])
                keys = {name: (setting, case, str(k), name) for name in names}
                missing = [name for name, key in keys.items() if key not in done]
                if not missing:
                    continue
                problem = load_problem(card, data, arguments.prior, overrides | changes)
                for name in missing:
                    started = time.perf_counter()
                    image, calls = reconstruct(problem, name)
                    seconds = f"{time.perf_counter() - started:.2f}"
                    scores = problem.evaluate(image[None])
                    scores = {n: f"{scores[n][0]:.5f}" for n in SCORES if n in scores}
                    row = dict(zip(FIELDS, keys[name], strict=False))
                    writer.writerow({**row, **scores, **calls, "seconds": seconds})
                    file.flush()
    report(arguments.out)


def report(path: Path) -> None:
    """The tables: mean and standard deviation over images or seeds."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for setting, case in dict.fromkeys((r["setting"], r["case"]) for r in rows):
        here = [r for r in rows if (r["setting"], r["case"]) == (setting, case)]
        scores = [name for name in SCORES if here[0][name]]
        print(f"\n{setting}, {case}\n| method | {' | '.join(scores)} | operator calls | s | n |")
        print("|---" * (len(scores) + 4) + "|")
        for method in dict.fromkeys(r["method"] for r in here):
            these = [r for r in here if r["method"] == method]
            cells = []
            for name in scores:
                values = np.array([float(r[name]) for r in these])
                digits = 2 if name == "psnr" else 3
                spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
                cells.append(f"{values.mean():.{digits}f}{spread}")
            calls = [float(r["operator_calls"]) for r in these if r["operator_calls"]]
            cells.append(f"{np.mean(calls):,.0f}" if calls else "-")
            cells.append(f"{np.mean([float(r['seconds']) for r in these]):.1f}")
            print(f"| {method} | {' | '.join(cells)} | {len(these)} |")
        if scores[0] == "psnr":
            compare(here)


def compare(rows: list[dict], method: str = "LMAPS, mean of 4") -> None:
    """PSNR of `method` minus that of each other one, image by image."""
    psnr = {(r["method"], r["image"]): float(r["psnr"]) for r in rows}
    for other in dict.fromkeys(r["method"] for r in rows if r["method"] != method):
        pairs = [(psnr[m, k], v) for (o, k), v in psnr.items()
                 for m in (method,) if o == other and (m, k) in psnr]  # fmt: skip
        if len(pairs) > 1:
            gain = np.array([a - b for a, b in pairs])
            print(f"{method} - {other}: {gain.mean():+.2f} ± {gain.std(ddof=1):.2f} dB, "
                  f"better on {(gain > 0).sum()} of {len(gain)}")  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
