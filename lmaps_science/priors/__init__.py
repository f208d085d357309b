"""Priors: everything that denoises, behind one callable `D(x, sigma)`."""

from lmaps_science.priors.adapters import from_diffusers, from_function
from lmaps_science.priors.analytic import GaussianMixturePrior, GaussianPrior
from lmaps_science.priors.base import Denoiser
from lmaps_science.priors.checkpoints import load_prior, prior_info, save_prior
from lmaps_science.priors.covariance import (
    Covariance,
    DenseCovariance,
    DiagonalCovariance,
    LowRankCovariance,
    StationaryCovariance,
)
from lmaps_science.priors.networks import NetworkDenoiser, build_network
from lmaps_science.priors.state_dicts import infer_config
from lmaps_science.priors.total_variation import TotalVariationPrior

__all__ = [
    "Covariance",
    "Denoiser",
    "DenseCovariance",
    "DiagonalCovariance",
    "GaussianMixturePrior",
    "GaussianPrior",
    "LowRankCovariance",
    "NetworkDenoiser",
    "StationaryCovariance",
    "TotalVariationPrior",
    "build_network",
    "from_diffusers",
    "from_function",
    "infer_config",
    "load_prior",
    "prior_info",
    "save_prior",
]
