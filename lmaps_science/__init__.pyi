from .cards.files import list_problems
from .cards.kind import (
    Kind,
    Recipe,
)
from .cards.load import (
    load_card,
    load_problem,
)
from .cards.problem import Problem
from .io import (
    make_image,
    read_image,
    read_netcdf,
    read_uvfits,
    simulate_observation,
    write_fits,
    write_netcdf,
    write_uvfits,
)
from .local_map import (
    LBFGS,
    BarzilaiBorwein,
    ConjugateGradient,
    GradientSteps,
)
from .manifests import (
    fetch,
    list_data,
)
from .misfit import GaussianMisfit
from .operators import (
    Affine,
    LinearOperator,
    Operator,
)
from .physics.closure_misfit import ClosureMisfit
from .physics.interferometry import (
    ClosureQuantities,
    Visibilities,
)
from .plots import (
    plot_reconstruction,
    plot_samples,
)
from .priors import (
    Denoiser,
    GaussianPrior,
    from_diffusers,
    from_function,
    load_prior,
)
from .problems.black_hole.baselines import regularised_maximum_likelihood
from .problems.black_hole.figures import plot_uv
from .problems.black_hole.phantoms import BlackHoleImages
from .report import (
    collect,
    write_report,
)
from .runner import (
    reconstruct,
    reconstruct_many,
    rerun,
)
from .sampling import (
    InverseProblem,
    Result,
    Solver,
    sample,
    stack,
)
from .solvers import (
    DAPS,
    DPS,
    LMAPS,
    DiffPIR,
    REDDiff,
)
from .training import (
    TrainingSettings,
    train,
)

__all__ = [
    "DAPS",
    "DPS",
    "LBFGS",
    "LMAPS",
    "Affine",
    "BarzilaiBorwein",
    "BlackHoleImages",
    "ClosureMisfit",
    "ClosureQuantities",
    "ConjugateGradient",
    "Denoiser",
    "DiffPIR",
    "GaussianMisfit",
    "GaussianPrior",
    "GradientSteps",
    "InverseProblem",
    "Kind",
    "LinearOperator",
    "Operator",
    "Problem",
    "REDDiff",
    "Recipe",
    "Result",
    "Solver",
    "TrainingSettings",
    "Visibilities",
    "collect",
    "fetch",
    "from_diffusers",
    "from_function",
    "list_data",
    "list_problems",
    "load_card",
    "load_prior",
    "load_problem",
    "make_image",
    "plot_reconstruction",
    "plot_samples",
    "plot_uv",
    "read_image",
    "read_netcdf",
    "read_uvfits",
    "reconstruct",
    "reconstruct_many",
    "regularised_maximum_likelihood",
    "rerun",
    "sample",
    "simulate_observation",
    "stack",
    "train",
    "write_fits",
    "write_netcdf",
    "write_report",
    "write_uvfits",
]
