"""What each method makes of a posterior of two modes that is known: the biases of the docstrings.

`toys.inpainting`: two pixels, the first one measured; modes of weight 0.71 and 0.29.
"""

import pytest
import torch

from lmaps_science.cards.registry import methods
from lmaps_science.local_map import BarzilaiBorwein, ConjugateGradient
from lmaps_science.sampling import Solver, sample
from lmaps_science.solvers import (
    DAPS,
    DCDP,
    DDNM,
    DDRM,
    DMAP,
    DPS,
    DSG,
    FPSSMC,
    LGD,
    LMAPS,
    MAPGA,
    PSLD,
    SITCOM,
    VMLMAP,
    AnnealedLangevin,
    DiffPIR,
    DMPlug,
    FreeDoM,
    FrequencyHopping,
    MCGDiff,
    PerturbAndMAP,
    PiGDM,
    PnPDM,
    Population,
    REDDiff,
    ReSample,
    ScoreMRI,
)
from lmaps_science.toys import between_modes, component_shares, inpainting

ENDS = {"sigma_max": 10.0, "sigma_min": 0.02}
MAXIMA = LMAPS(40, local=ConjugateGradient(), **ENDS)
DRAWS = PerturbAndMAP()
N = 300

# The share of the heavier mode (0.71), of samples in no mode (0.01), and how far the measured and
# the other pixel spread in the heavier mode, in units of what they should.
FOUND = [
    (LMAPS(40, local=DRAWS, **ENDS), 0.61, 0.01, 1.0, 1.05),
    (LMAPS(40, local=DRAWS, covariance="jacobian", products=2, **ENDS), 0.64, 0.01, 1.0, 1.0),
    (DAPS(40, 2, local=DRAWS, **ENDS), 0.61, 0.02, 1.08, 1.1),
    (PnPDM(local=DRAWS), 0.65, 0.01, 1.0, 1.0),
    (AnnealedLangevin(150), 0.60, 0.01, 1.0, 1.0),
    (PiGDM(100), 0.66, 0.01, 1.0, 1.0),
    (LGD(100, draws=40, longest=3.0), 0.66, 0.01, 1.0, 1.0),
    (MCGDiff(50, 8), 0.71, 0.0, 0.9, 0.9),
    (DiffPIR(100), 0.53, 0.01, 1.0, 0.95),
    (DSG(100), 0.74, 0.0, 0.88, 0.97),
    (FreeDoM(100), 0.73, 0.02, 0.68, 0.94),
    (DPS(100), 0.86, 0.01, 0.65, 0.98),
    (FPSSMC(50, 8), 0.92, 0.0, 0.75, 0.9),
    (DMAP(50), 0.97, 0.03, 0.29, 0.92),
    (DDRM(), 0.66, 0.01, 0.57, 0.8),
    (DDNM(100), 0.74, 0.16, 0.18, 1.04),
    (ScoreMRI(200), 0.63, 0.49, 0.0, 1.93),
    (MAXIMA, 0.69, 0.0, 0.66, 0.65),
    (Population(MAXIMA, 8), 0.96, 0.0, 0.66, 0.65),
    (ReSample(), 0.82, 0.0, 0.73, 0.74),
    (DCDP(), 0.89, 0.05, 0.7, 0.7),
    (SITCOM(), 0.99, 0.01, 0.66, 0.68),
    (DMPlug(), 0.59, 0.48, 1.15, 1.1),
    (MAPGA(30, local=BarzilaiBorwein(30), sigma_max=10.0), 0.73, 0.0, 0.0, 0.0),
    (VMLMAP(sigma_max=10.0), 0.97, 0.0, 0.0, 0.0),
    (REDDiff(300), 1.0, 0.0, 0.06, 0.43),
]
NOT_HERE = {FrequencyHopping, PSLD}  # for several frequencies, and for latents


@pytest.mark.parametrize(
    ("solver", "heavy", "between", "seen", "unseen"),
    FOUND,
    ids=[f"{type(row[0]).__name__}-{k}" for k, row in enumerate(FOUND)],
)
def test_weights_and_spread_are_as_said(solver, heavy, between, seen, unseen):
    toy = inpainting()
    found = sample(toy.problem, solver, N, progress=False).estimates
    share = float(component_shares(found, toy.posterior)[0])
    assert share == pytest.approx(heavy, abs=3.5 * (max(heavy * (1 - heavy), 0.01) / N) ** 0.5)
    lost = float(between_modes(found, toy.posterior).double().mean())
    assert lost == pytest.approx(between, abs=3.5 * (max(between * (1 - between), 0.01) / N) ** 0.5)
    many = toy.posterior.sample(20000, torch.Generator().manual_seed(0))
    near, exact = (
        drawn[toy.posterior.distance(drawn).argmin(1) == 0].flatten(1).std(0)
        for drawn in (found, many)
    )
    expected = torch.tensor([seen, unseen]).double()
    torch.testing.assert_close(near / exact, expected, rtol=0.2, atol=0.02)


def test_every_solver_is_looked_at():
    ours = [cls for cls in methods().values() if cls.__module__.startswith("lmaps_science.")]
    solvers = {cls for cls in ours if issubclass(cls, Solver)}
    assert solvers == {type(row[0]) for row in FOUND} | NOT_HERE
