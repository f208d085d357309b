"""How often is the ring test right? Images with and without a ring, two priors, known truth.

    python tests/benchmarks/black_hole_rings.py --images 20

Images 0, 1, ... of CompactSources(seed=1), observed as in black_hole/simulated. For each prior, and
for the samples of both, the finding and the logarithm of the likelihood ratio, beside whether the
true image has a ring by the same criterion.
"""

import argparse
import tempfile
from pathlib import Path

from lmaps_science import load_prior, load_problem, sample
from lmaps_science.cards.sections import find_prior
from lmaps_science.io import make_image, write_fits
from lmaps_science.io.images import MICROARCSECOND
from lmaps_science.problems.black_hole.compact_sources import CompactSources
from lmaps_science.problems.black_hole.data import SKY
from lmaps_science.problems.black_hole.ring_test import has_ring

PRIORS = ("black_hole_64.safetensors", "compact_sources_64.safetensors")


def shown(data):
    test = data.attrs["ring_test"]
    ratio = "" if test["log_ratio"] is None else f" {test['log_ratio']:+.1f}"
    return f"{test['with_ring']}/{test['samples']} {test['finding']}{ratio}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--preset", default="quick")
    options = parser.parse_args()
    source = CompactSources(seed=1)
    priors = [load_prior(find_prior(name)) for name in PRIORS]
    for k in range(options.first, options.first + options.images):
        values = source[k][0].astype(float)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "truth.fits"
            pixel = source.fov_uas / source.npix
            write_fits(path, make_image(values / values.sum(), pixel * MICROARCSECOND, **SKY))
            found = []
            for prior in priors:
                problem = load_problem("black_hole/simulated", path, prior, preset=options.preset)
                result = sample(problem, problem.solver, options.samples, progress=False)
                found.append(problem.analyse(result))
        truth = has_ring(values[None], pixel, problem.resolution_uas)[0]
        alone = [shown(data) for data in found]
        problem.compare(*found, PRIORS[1])
        row = [str(k), source.family(k), "ring" if truth else "none", *alone, shown(found[0])]
        print(" | ".join(row), flush=True)


if __name__ == "__main__":
    main()
