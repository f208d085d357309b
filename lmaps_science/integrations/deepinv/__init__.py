"""DeepInverse: physics to and fro, its denoisers as priors, our solvers as its reconstructors.

Its complex images and data are two real channels, (B, 2, ...), as in its MRI. Our images are the
same; our data are complex tensors and become channels on the way.
"""

from lmaps_science.integrations.deepinv.physics import from_deepinv, to_deepinv
from lmaps_science.integrations.deepinv.reconstructor import (
    as_reconstructor,
    from_deepinv_denoiser,
)

__all__ = ["as_reconstructor", "from_deepinv", "from_deepinv_denoiser", "to_deepinv"]
