"""Reconstruct scientific images from indirect measurements with diffusion priors.

>>> from lmaps_science import load_problem, sample                       # doctest: +SKIP
>>> problem = load_problem("black_hole/m87_2017", data="m87.uvfits")      # doctest: +SKIP
>>> result = sample(problem, problem.solver, n_samples=4, seed=0)        # doctest: +SKIP
>>> problem.analyse(result)                                              # doctest: +SKIP

Names are imported when they are first used: importing the package costs nothing. `__init__.pyi`
says where each one is, for this and for type checkers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
