"""InverseBench (Zheng et al. 2025, ICLR): the solvers of this package as its algorithms.

`python main.py algorithm=lmaps ...` in the benchmark's own folder, its source untouched; see
docs/inversebench.md. `python -m lmaps_science.integrations.inversebench` lists the configurations.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from lmaps_science.integrations.inversebench.algorithm import Algorithm as Algorithm

# Late: the list of configurations needs no PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"algorithm": ["Algorithm"]}
)
