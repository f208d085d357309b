"""Instances for the property tests: each runs over a whole list.

Each entry is a function without arguments: nothing is built at import, its name is the test id.
Operators and misfits are built in float64; the tests move them where they want another precision.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from instances_mri import MRI_OPERATORS
from instances_restoration import RESTORATION
from instances_scattering import SCATTERING

from lmaps_science.local_map import LBFGS, Adam, BarzilaiBorwein, ConjugateGradient, GradientSteps
from lmaps_science.misfit import GaussianMisfit, Misfit
from lmaps_science.operators import Affine, LinearOperator, Operator, Scaling, SVDOperator
from lmaps_science.physics.closure_misfit import ClosureMisfit
from lmaps_science.physics.interferometry import ClosureQuantities, ClosureSet, Visibilities
from lmaps_science.physics.multi_frequency import MultiFrequency
from lmaps_science.priors import (
    Autoencoder,
    Decoder,
    Denoiser,
    DenseCovariance,
    DiagonalCovariance,
    GaussianMixturePrior,
    GaussianPrior,
    LatentPrior,
    LowRankCovariance,
    MirroredCovariance,
    NetworkDenoiser,
    StationaryCovariance,
    TotalVariationPrior,
    build_network,
    from_function,
)
from lmaps_science.sampling import InverseProblem, Solver
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
    ExactSVD,
    FreeDoM,
    FrequencyHopping,
    Langevin,
    MCGDiff,
    Metropolis,
    PerturbAndMAP,
    PiGDM,
    PnPDM,
    Population,
    REDDiff,
    ReSample,
    ScoreMRI,
)
from lmaps_science.surrogate import Surrogate
from lmaps_science.toys import Matrix


class DenseSVD(Matrix):
    """A dense matrix with its thin SVD, whose products go through the singular vectors."""

    _forward, _adjoint = SVDOperator._forward, SVDOperator._adjoint


class FirstDifference(LinearOperator):
    """Horizontal differences; its adjoint is left to autograd."""

    image_shape, data_shape = (1, 6, 5), (1, 6, 4)

    def _forward(self, x):
        return x[..., 1:] - x[..., :-1]


class Squares(Operator):
    """y = x^2 + i x: nonlinear, complex data, everything left to autograd."""

    image_shape, data_shape = (1, 6, 5), (1, 6, 5)

    def _forward(self, x):
        return torch.complex(x**2, x)


def dense_svd() -> SVDOperator:
    generator = torch.Generator().manual_seed(1)
    return DenseSVD(torch.randn(9, 30, generator=generator, dtype=torch.float64), (1, 6, 5))


class Rounded(Operator):
    """y = 10 x, rounded, which has no useful derivative, and says so."""

    image_shape, data_shape = (1, 6, 5), (1, 6, 5)
    provides = frozenset()

    def _forward(self, x):
        return (10 * x).round()


def rounded_surrogate() -> Operator:
    return Surrogate(Rounded(), Scaling(10.0, (1, 6, 5)))


def affine() -> Operator:
    return Affine(0.5, 1.0, (1, 6, 5))


def squares_of_affine() -> Operator:
    return Squares() @ affine()


def scaled_svd() -> Operator:
    return dense_svd() @ Scaling(-0.5, (1, 6, 5))


def difference_of_scaling() -> Operator:
    return FirstDifference() @ Scaling(3.0, (1, 6, 5))


def load_golden(name: str) -> dict[str, np.ndarray]:
    """Arrays of tests/golden/<name>.npz: the output of an independent implementation."""
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as arrays:
        return dict(arrays)


STATIONS = torch.tensor(  # in wavelengths, east and north of the first
    [[0.0, 0.0], [3.1e9, 0.7e9], [-1.2e9, 2.9e9], [1.1e9, -2.2e9], [-2.6e9, -0.9e9]],
    dtype=torch.float64,
)
PAIRS = list(itertools.combinations(range(len(STATIONS)), 2))


def small_visibilities(method: str = "dft", npix: int = 9) -> Visibilities:
    u, v = torch.stack([STATIONS[j] - STATIONS[i] for i, j in PAIRS], dim=1)
    return Visibilities(u, v, npix, 2e-11, method=method, dtype=torch.float64)


def small_closures() -> ClosureSet:
    """All triangles of the five stations; one quadrangle V01 V23 / (V03 V12) for each four."""
    phases, amplitudes = [], []
    for i, j, k in itertools.combinations(range(len(STATIONS)), 3):
        phases.append([PAIRS.index(pair) for pair in ((i, j), (j, k), (i, k))])
    for i, j, k, m in itertools.combinations(range(len(STATIONS)), 4):
        amplitudes.append([PAIRS.index(pair) for pair in ((i, j), (k, m), (i, m), (j, k))])
    return ClosureSet(phases, [[False, False, True]] * len(phases), amplitudes)


def visibilities() -> Operator:
    return small_visibilities()


def visibilities_even_size() -> Operator:
    return small_visibilities(npix=8)


def visibilities_nufft() -> Operator:
    return small_visibilities("nufft")


def closure_quantities() -> Operator:
    return ClosureQuantities(small_visibilities(), small_closures())


def decoder() -> Decoder:
    """Of a small autoencoder with fresh weights, which are not linear."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = (1, 6, 5)
        network = Autoencoder(shape, patch=1, latent_channels=1, channels=4, decoder_blocks=1)
        for block in (network.decoder[1], network.encoder[1]):
            torch.nn.init.normal_(block.conv1.weight, std=0.2)
    return Decoder(network, network.latent_shape, shape, scale=0.5, shift=0.1).to(torch.float64)


OPERATORS: list[Callable[[], Operator]] = [
    affine,
    closure_quantities,
    decoder,
    dense_svd,
    difference_of_scaling,
    scaled_svd,
    squares_of_affine,
    visibilities,
    visibilities_even_size,
    visibilities_nufft,
    *MRI_OPERATORS,
    *RESTORATION,
    *SCATTERING,
]


def a_positive_image(image_shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand((1, *image_shape), generator=generator, dtype=torch.float64)


def gaussian_real() -> Misfit:
    operator = dense_svd()
    return GaussianMisfit(operator, operator(a_positive_image(operator.image_shape)) + 0.1, 0.3)


def gaussian_complex_nonlinear() -> Misfit:
    operator = squares_of_affine()
    y = operator(a_positive_image(operator.image_shape)) + 0.1j
    return GaussianMisfit(operator, y, torch.linspace(0.1, 0.4, 5, dtype=torch.float64))


def closure_misfit(flux: bool = True, **options) -> Misfit:
    operator = closure_quantities()
    quantities = operator(a_positive_image(operator.image_shape))[0] + 0.05
    theta, amplitude, total = quantities.split([operator.n_phases, operator.n_amplitudes, 1])
    sigmas = torch.linspace(0.1, 0.3, len(theta)), torch.linspace(0.2, 0.4, len(amplitude))
    known = float(total) if flux else None
    return ClosureMisfit(operator, theta, sigmas[0], amplitude, sigmas[1], known, **options)


def closures_with_flux() -> Misfit:
    return closure_misfit()


def closures_without_flux() -> Misfit:
    return closure_misfit(flux=False)


def closures_on_model_space() -> Misfit:
    return closure_misfit(weights=(0.5, 2.0, 1.0)) @ Affine(0.5, 1.0, (1, 9, 9))


MISFITS: list[Callable[[], Misfit]] = [
    closures_on_model_space,
    closures_with_flux,
    closures_without_flux,
    gaussian_complex_nonlinear,
    gaussian_real,
]


# ---------------------------------------------------------------- priors


def smooth_covariance(image_shape: tuple[int, ...], length: float = 2.0) -> torch.Tensor:
    """Dense (d, d): unit variance, correlations that fall off with the distance in pixels."""
    rows, columns = torch.meshgrid(
        *(torch.arange(float(n)) for n in image_shape[1:]), indexing="ij"
    )
    points = torch.stack([rows.flatten(), columns.flatten()], 1).double()
    near = torch.exp(-0.5 * (torch.cdist(points, points) / length) ** 2)
    return 0.9 * near + 0.1 * torch.eye(len(points), dtype=torch.float64)


def dense_gaussian(image_shape: tuple[int, int, int] = (1, 6, 5)) -> GaussianPrior:
    mean = torch.linspace(-0.5, 0.5, image_shape[1] * image_shape[2], dtype=torch.float64)
    covariance = DenseCovariance(0.3 * smooth_covariance(image_shape), image_shape)
    return GaussianPrior(mean.reshape(image_shape), covariance)


def latent(image_shape: tuple[int, int, int] = (1, 6, 5)) -> Denoiser:
    """A Gaussian prior of latents, which are decoded to images of the same shape."""
    like = decoder()
    found = Decoder(like.network, image_shape, image_shape, like.scale, like.shift)
    return LatentPrior(dense_gaussian(image_shape), found)


def stationary_gaussian(image_shape: tuple[int, int, int] = (1, 6, 5)) -> GaussianPrior:
    frequencies = (torch.fft.fftfreq(n, dtype=torch.float64) for n in image_shape[1:])
    ky, kx = torch.meshgrid(*frequencies, indexing="ij")
    spectrum = 1 / (0.2 + 10 * (kx**2 + ky**2))
    mean = torch.zeros(image_shape, dtype=torch.float64)
    return GaussianPrior(mean, StationaryCovariance(spectrum[None]))


def mirrored_gaussian(image_shape: tuple[int, int, int] = (1, 6, 5)) -> GaussianPrior:
    ky, kx = (torch.arange(n, dtype=torch.float64) / (2 * n) for n in image_shape[1:])
    spectrum = 1 / (0.2 + 10 * (ky[:, None] ** 2 + kx**2))
    mean = torch.zeros(image_shape, dtype=torch.float64)
    return GaussianPrior(mean, MirroredCovariance(spectrum[None]))


def gaussian_mixture(image_shape: tuple[int, int, int] = (1, 6, 5)) -> GaussianMixturePrior:
    generator = torch.Generator().manual_seed(4)
    means = torch.randn((3, *image_shape), generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    return GaussianMixturePrior(weights, means, torch.full_like(weights, 0.4))


def shrinking_function(image_shape: tuple[int, int, int] = (1, 6, 5)) -> Denoiser:
    return from_function(lambda x, sigma: x / (1 + sigma**2), image_shape)


def piecewise_constant(image_shape: tuple[int, int, int] = (1, 6, 5)) -> Denoiser:
    """Iterated until what a proximal map promises holds to a hundredth.

    Without limits: where all of an image is beyond them, as at the first noise levels, the denoised
    image does not change with x, and DPS has no gradient to follow.
    """
    unlimited = (-float("inf"), float("inf"))
    return TotalVariationPrior(image_shape, 2.0, unlimited, iterations=200)


def diagonal_gaussian(image_shape: tuple[int, int, int] = (1, 6, 5)) -> GaussianPrior:
    variance = torch.linspace(0.1, 0.5, math.prod(image_shape), dtype=torch.float64)
    mean = torch.zeros(image_shape, dtype=torch.float64)
    return GaussianPrior(mean, DiagonalCovariance(variance.reshape(image_shape)))


def network(image_shape: tuple[int, int, int] = (1, 6, 5)) -> Denoiser:
    """As it is before training, when it shrinks the image by the skip connection alone."""
    config = {
        "architecture": "song",
        "preconditioning": "edm",
        "sigma_data": 0.5,
        "image_shape": list(image_shape),
        "model_channels": 8,
        "channel_mult": [1],
        "num_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = NetworkDenoiser(build_network(config), image_shape, (-1.0, 1.0))
    generator = torch.Generator().manual_seed(9)
    images = torch.randn((50, *image_shape), generator=generator)
    denoiser.covariance = LowRankCovariance.from_images(images, 5)
    return denoiser.to(dtype=torch.float64)


PRIORS: list[Callable[..., Denoiser]] = [  # each takes an image shape
    dense_gaussian,
    diagonal_gaussian,
    gaussian_mixture,
    latent,
    network,
    piecewise_constant,
    shrinking_function,
    stationary_gaussian,
    mirrored_gaussian,
]


# ---------------------------------------------------------------- problems and solvers


def inverse_problem(misfit: Misfit, prior: Callable[..., Denoiser] = dense_gaussian):
    """Physical space is (model space + 1) / 2."""
    shape = misfit.operator.image_shape
    return InverseProblem(prior(shape), misfit, Affine(0.5, 1.0, shape))


def linear_problem() -> InverseProblem:
    return inverse_problem(gaussian_real())


def nonlinear_problem() -> InverseProblem:
    return inverse_problem(gaussian_complex_nonlinear())


def closure_problem() -> InverseProblem:
    return inverse_problem(closures_on_model_space())


def multi_frequency_problem() -> InverseProblem:
    operator = MultiFrequency([squares_of_affine(), Squares() @ Affine(0.4, 1.2, (1, 6, 5))])
    y = operator(a_positive_image(operator.image_shape)) + 0.1j
    sigma = torch.tensor([0.2, 0.3], dtype=torch.float64).reshape(1, 2, 1, 1, 1)
    return inverse_problem(GaussianMisfit(operator, y, sigma))


def latent_problem() -> InverseProblem:
    """Data that are linear in images of which the prior knows the latents."""
    to_images, affine = decoder(), Affine(0.5, 1.0, (1, 6, 5))
    prior = LatentPrior(dense_gaussian(), to_images)
    return InverseProblem(prior, gaussian_real() @ affine @ to_images, affine @ to_images)


def problem_for(solver: Solver) -> InverseProblem:
    """One that provides what the solver requires."""
    served = (make() for make in (linear_problem, multi_frequency_problem, latent_problem))
    return next(problem for problem in served if not solver.requires - problem.provides)


PROBLEMS: list[Callable[[], InverseProblem]] = [
    closure_problem,
    latent_problem,
    linear_problem,
    multi_frequency_problem,
    nonlinear_problem,
]


def annealed_langevin() -> Solver:
    return AnnealedLangevin(levels=50, rate=0.3, sigma_max=10.0)


def daps() -> Solver:
    return DAPS(levels=12, ode_steps=2, local=Metropolis(30), sigma_max=10.0)


def daps_langevin() -> Solver:
    return DAPS(levels=12, ode_steps=1, local=Langevin(20, 1e-3), sigma_max=10.0)


def dcdp() -> Solver:
    return DCDP(levels=12)


def ddnm() -> Solver:
    return DDNM(levels=12)


def ddrm() -> Solver:
    return DDRM(levels=12)


def diffpir() -> Solver:
    return DiffPIR(levels=12, regularisation=1.0)


def diffpir_conjugate_gradient() -> Solver:
    return DiffPIR(levels=12, regularisation=1.0, local=ConjugateGradient())


def dmap() -> Solver:
    return DMAP(levels=20)


def dmplug() -> Solver:
    return DMPlug(levels=12, local=LBFGS(4))


def dmplug_variance() -> Solver:
    return DMPlug(levels=12, local=LBFGS(4), stop="variance")


def dps() -> Solver:
    return DPS(levels=40)


def dps_paper() -> Solver:
    return DPS(levels=40, zeta=0.2, scale_free=False)


def dsg() -> Solver:
    return DSG(levels=40)


def fps_smc() -> Solver:
    return FPSSMC(levels=20, particles=3)


def freedom() -> Solver:
    return FreeDoM(levels=20)


def frequency_hopping() -> Solver:
    return FrequencyHopping(12, sigma_max=10.0)


def lgd() -> Solver:
    return LGD(levels=40, draws=2)


def lmaps() -> Solver:
    return LMAPS(levels=12, kappa1=1.0, kappa2=10.0, sigma_max=10.0)


def lmaps_barzilai_borwein() -> Solver:
    return LMAPS(levels=12, kappa1=1.0, local=BarzilaiBorwein(), sigma_max=10.0)


def lmaps_conjugate_gradient() -> Solver:
    return LMAPS(levels=12, kappa1=1.0, kappa2=10.0, local=ConjugateGradient(), sigma_max=10.0)


def lmaps_draws() -> Solver:
    return LMAPS(levels=12, local=PerturbAndMAP(), temperature=0.5, sigma_max=10.0)


def lmaps_draws_jacobian() -> Solver:
    return LMAPS(levels=12, covariance="jacobian", local=PerturbAndMAP(LBFGS()), sigma_max=10.0)


def lmaps_exact_svd() -> Solver:
    return LMAPS(levels=12, kappa1=1.0, kappa2=10.0, local=ExactSVD(), sigma_max=10.0)


def lmaps_gradient_steps() -> Solver:
    return LMAPS(levels=12, kappa1=1.0, kappa2=3.0, local=GradientSteps(60, 0.003), sigma_max=10.0)


def lmaps_jacobian() -> Solver:
    """TMPD, in the subspace of a few products."""
    return LMAPS(levels=12, covariance="jacobian", sigma_max=10.0)


def lmaps_jacobian_exact() -> Solver:
    """TMPD."""
    return LMAPS(levels=12, covariance="jacobian", local=ConjugateGradient(), sigma_max=10.0)


def map_ga() -> Solver:
    return MAPGA(levels=12, local=BarzilaiBorwein(8), sigma_max=10.0)


def mcg_diff() -> Solver:
    return MCGDiff(levels=20, particles=3)


def pigdm() -> Solver:
    return PiGDM(levels=20)


def pnp_dm() -> Solver:
    return PnPDM(levels=15, prior_steps=4, local=Metropolis(20), rho_max=2.0)


def pnp_dm_perturb_and_map() -> Solver:
    return PnPDM(levels=15, prior_steps=4, local=PerturbAndMAP(), rho_max=2.0)


def population() -> Solver:
    return Population(lmaps(), 4, {1: 2, 0.3: 1})


def population_hopping() -> Solver:
    return Population(frequency_hopping(), 2, {0.5: 1})


def psld() -> Solver:
    return PSLD(levels=40)


def red_diff() -> Solver:
    return REDDiff(levels=60)


def resample() -> Solver:
    return ReSample(levels=20)


def resample_pixels() -> Solver:
    return ReSample(levels=20, pixels=0.5)


def score_mri() -> Solver:
    return ScoreMRI(levels=30)


def sitcom() -> Solver:
    return SITCOM(levels=12, local=LBFGS(8))


def sitcom_paper() -> Solver:
    return SITCOM(levels=12, local=Adam(20, 0.02))


def vml_map() -> Solver:
    return VMLMAP(levels=12, steps=8, preconditioned=False, sigma_max=10.0)


def vml_map_preconditioned() -> Solver:
    return VMLMAP(levels=12, steps=8, preconditioned=True, sigma_max=10.0)


SOLVERS: list[Callable[[], Solver]] = [
    annealed_langevin,
    daps,
    daps_langevin,
    dcdp,
    ddnm,
    ddrm,
    diffpir,
    diffpir_conjugate_gradient,
    dmap,
    dmplug,
    dmplug_variance,
    dps,
    dps_paper,
    dsg,
    fps_smc,
    freedom,
    frequency_hopping,
    lgd,
    lmaps,
    lmaps_barzilai_borwein,
    lmaps_conjugate_gradient,
    lmaps_draws,
    lmaps_draws_jacobian,
    lmaps_exact_svd,
    lmaps_gradient_steps,
    lmaps_jacobian,
    lmaps_jacobian_exact,
    map_ga,
    mcg_diff,
    pigdm,
    pnp_dm,
    pnp_dm_perturb_and_map,
    population,
    population_hopping,
    psld,
    red_diff,
    resample,
    resample_pixels,
    score_mri,
    sitcom,
    sitcom_paper,
    vml_map,
    vml_map_preconditioned,
]
