"""Priors: everything that denoises, behind one callable `D(x, sigma)`."""

from lmaps_science.priors.adapters import (
    from_diffusers,
    from_diffusers_autoencoder,
    from_function,
)
from lmaps_science.priors.analytic import GaussianMixturePrior, GaussianPrior
from lmaps_science.priors.autoencoder import Autoencoder, load_autoencoder, save_autoencoder
from lmaps_science.priors.base import Denoiser
from lmaps_science.priors.checkpoints import load_prior, prior_info, save_prior
from lmaps_science.priors.conditional import (
    ConditionalDenoiser,
    Control,
    load_control,
    save_control,
)
from lmaps_science.priors.covariance import (
    Covariance,
    DenseCovariance,
    DiagonalCovariance,
    LowRankCovariance,
    MirroredCovariance,
    StationaryCovariance,
)
from lmaps_science.priors.latent import Decoder, LatentPrior
from lmaps_science.priors.networks import NetworkDenoiser, build_network
from lmaps_science.priors.state_dicts import infer_config
from lmaps_science.priors.total_variation import TotalVariationPrior

__all__ = [
    "Autoencoder",
    "ConditionalDenoiser",
    "Control",
    "Covariance",
    "Decoder",
    "Denoiser",
    "DenseCovariance",
    "DiagonalCovariance",
    "GaussianMixturePrior",
    "GaussianPrior",
    "LatentPrior",
    "LowRankCovariance",
    "MirroredCovariance",
    "NetworkDenoiser",
    "StationaryCovariance",
    "TotalVariationPrior",
    "build_network",
    "from_diffusers",
    "from_diffusers_autoencoder",
    "from_function",
    "infer_config",
    "load_autoencoder",
    "load_control",
    "load_prior",
    "prior_info",
    "save_autoencoder",
    "save_control",
    "save_prior",
]
