"""The one loop: a solver and a problem in, samples with their history and their cost out."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from lmaps_science.arrays import Movable, move, real_dtype
from lmaps_science.io.files import atomic_write
from lmaps_science.io.results import write_netcdf
from lmaps_science.misfit import GaussianMisfit, Misfit
from lmaps_science.noise import SampleNoise
from lmaps_science.operators import Affine, SVDOperator
from lmaps_science.priors.base import Denoiser

__all__ = ["InverseProblem", "NonFiniteError", "Result", "Solver", "State", "sample"]


@dataclass(frozen=True)
class InverseProblem(Movable):
    """What a solver needs to know of the world.

    Attributes:
        prior: the denoiser D(x, sigma) on model space.
        misfit: -log p(y | z) on model space; it owns the data and the operator.
        affine: model space to physical space.
        template: an image (zeros will do) whose dimensions, coordinates, name and attributes the
            reconstructions take; None gives (channel, y, x) in pixels.
        facts: what should be kept with every result: file names, checksums, settings.
    """

    prior: Denoiser
    misfit: Misfit
    affine: Affine
    template: xr.DataArray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = {
            "prior": tuple(self.prior.image_shape),
            "misfit": tuple(self.misfit.operator.image_shape),
            "affine": tuple(self.affine.image_shape),
        }
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"prior, misfit and affine map must share one image shape, got {shapes}. "
                "Build the operator for the prior's image size, e.g. npix=64 for a 64 x 64 prior."
            )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.prior.image_shape)

    @property
    def provides(self) -> frozenset[str]:
        """The properties that solvers may require."""
        has = {"differentiable"}
        linear = self.misfit.operator.linear
        if isinstance(self.misfit, GaussianMisfit):
            has.add("gaussian")
        if linear is not None:
            has.add("linear")
        if isinstance(linear, SVDOperator):
            has.add("svd")
        if self.prior.covariance is not None:
            has.add("covariance")
        return frozenset(has)

    def like(self, batch: int) -> Tensor:
        """Zeros (B, C, H, W) of the device and dtype in which the operator works."""
        tensors = self.misfit.operator._tensors()
        device = tensors[0].device if tensors else None
        dtype = real_dtype(tensors[0].dtype) if tensors else torch.float32
        return torch.zeros(batch, *self.image_shape, device=device, dtype=dtype)


@dataclass(frozen=True)
class State:
    """Where a batch stands: the noisy images, the current estimates, and what else a solver keeps.

    Attributes:
        x: (B, C, H, W) at the noise level that comes next.
        estimate: (B, C, H, W), the reconstruction so far, in model space.
        extra: further tensors of a solver; they are saved in checkpoints.
    """

    x: Tensor
    estimate: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)


class Solver(Protocol):
    """A method: a frozen dataclass of its hyper-parameters.

    ``requires`` names what the problem must provide (``differentiable``, ``gaussian``, ``linear``,
    ``svd``), ``sigmas`` is the schedule (T + 1 levels, the last 0); ``init`` makes the state before
    the first level and ``step`` takes it from level i to level i + 1. Both are pure: all randomness
    comes from ``noise``, with the level as part of the key.
    """

    requires: frozenset[str]

    @property
    def sigmas(self) -> Tensor: ...

    def init(self, problem: InverseProblem, noise: SampleNoise) -> State: ...

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State: ...


def start(problem: InverseProblem, noise: SampleNoise, sigma: float | Tensor) -> State:
    """``x = sigma n``, the start of every solver that begins at pure noise."""
    like = problem.like(len(noise.samples))
    return State(x=float(sigma) * noise.normal(like, 0), estimate=like)


class NonFiniteError(FloatingPointError):
    """A NaN or an infinity appeared in a sample."""


# ------------------------------------------------------------------------------ counting


class _CountedPrior(Denoiser):
    def __init__(
        self, prior: Denoiser, counts: dict[str, int], autocast: torch.dtype | None
    ) -> None:
        self.prior, self.counts, self.autocast = prior, counts, autocast
        self.image_shape, self.value_range = prior.image_shape, prior.value_range
        self.covariance = prior.covariance

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.counts["denoiser_calls"] += 1
        # Here and not around the loop: the operator's products must keep their precision.
        reduced = torch.autocast(x.device.type, self.autocast) if self.autocast else nullcontext()
        with reduced:
            out = self.prior._denoise(x, sigma).to(x.dtype)
        if out.requires_grad:
            out.register_hook(self._count_vjp)
        return out

    def _count_vjp(self, gradient: Tensor) -> None:
        self.counts["denoiser_vjps"] += 1


class _CountingOperator:
    """Mixed into a copy of the operator, so that it keeps its type and all it can do.

    Only the outermost call counts: ``normal`` is one call and one adjoint, however it is made.
    """

    _counts: dict[str, int]
    _inside: list[bool]

    def _outermost(self, name: str, times: Mapping[str, int], *args: Any) -> Any:
        if self._inside[0]:
            return getattr(super(), name)(*args)
        self._inside[0] = True
        try:
            for key, count in times.items():
                self._counts[key] += count
            return getattr(super(), name)(*args)
        finally:
            self._inside[0] = False

    def __call__(self, x: Tensor) -> Tensor:
        return self._outermost("__call__", {"operator_calls": 1}, x)

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        return self._outermost("vjp", {"operator_vjps": 1}, x, v)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._outermost("adjoint", {"operator_vjps": 1}, y)

    def normal(self, x: Tensor) -> Tensor:
        return self._outermost("normal", {"operator_calls": 1, "operator_vjps": 1}, x)

    def pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        y, pull = self._outermost("pullback", {"operator_calls": 1}, x)

        def counted(v: Tensor) -> Tensor:
            if not self._inside[0]:
                self._counts["operator_vjps"] += 1
            inside, self._inside[0] = self._inside[0], True
            try:
                return pull(v)
            finally:
                self._inside[0] = inside

        return y, counted


def _counted(
    problem: InverseProblem, counts: dict[str, int], autocast: torch.dtype | None
) -> InverseProblem:
    operator = copy.copy(problem.misfit.operator)
    kind = type(operator)
    operator.__class__ = type(kind.__name__, (_CountingOperator, kind), {})
    operator._counts, operator._inside = counts, [False]  # type: ignore[attr-defined]
    misfit = problem.misfit.to()
    misfit.operator = operator
    return replace(problem, prior=_CountedPrior(problem.prior, counts, autocast), misfit=misfit)


# ------------------------------------------------------------------------------ the result


@dataclass(frozen=True, repr=False)
class Result:
    """Samples in physical space, and how they came about.

    Attributes:
        samples: (n, C, H, W), physical units.
        estimates: the same in model space.
        misfit: (levels, n), the data misfit L of the estimate after every noise level.
        sigmas: (levels,), the noise levels.
        counts: calls for one sample: denoiser calls and their vector-Jacobian products, operator
            calls and theirs. A batch is one call, since each of its samples costs it.
        seconds: wall time of the whole run.
        trajectory: (levels, n, C, H, W) estimates in model space, where asked for.
        facts: solver, seed, versions, and the facts of the problem.
    """

    samples: np.ndarray
    estimates: Tensor
    misfit: np.ndarray
    sigmas: np.ndarray
    counts: dict[str, int]
    seconds: float
    template: xr.DataArray | None
    facts: dict[str, Any]
    trajectory: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def mean(self) -> np.ndarray:
        """Mean over samples, (C, H, W)."""
        return self.samples.mean(0)

    @property
    def std(self) -> np.ndarray:
        """Standard deviation over samples, (C, H, W); 0 where there is one sample."""
        return self.samples.std(0, ddof=1) if len(self) > 1 else np.zeros_like(self.samples[0])

    def to_xarray(self) -> xr.Dataset:
        """The samples with named dimensions, coordinates, units and provenance."""
        template = self.template
        if template is None:
            dims: tuple[Any, ...] = ("channel", "y", "x")
            shape, coords, name, attrs = self.samples.shape[1:], {}, "image", {}
        else:
            dims, shape = template.dims, template.shape
            coords, name = dict(template.coords), str(template.name or "image")
            attrs = dict(template.attrs)

        def image(values: np.ndarray, lead: tuple[str, ...] = ()) -> xr.DataArray:
            values = values.reshape(*values.shape[: len(lead)], *shape)
            return xr.DataArray(values, dims=(*lead, *dims), coords=coords, attrs=attrs)

        data = xr.Dataset(
            {
                name: image(self.samples, ("sample",)),
                f"{name}_mean": image(self.mean),
                f"{name}_std": image(self.std),
                "misfit": (
                    ("level", "sample"),
                    self.misfit,
                    {"long_name": "data misfit, -log p(y|x) + const", "units": "1"},
                ),
            },
            coords={
                "sample": np.arange(len(self)),
                "sigma": ("level", self.sigmas, {"long_name": "noise level", "units": "1"}),
            },
        )
        if self.trajectory is not None:
            data["trajectory"] = image(self.trajectory, ("level", "sample"))
            data["trajectory"].attrs = {"long_name": "estimates in model space"}
        data.attrs = {**self.facts, **self.counts, "wall_seconds": round(self.seconds, 2)}
        return data

    def save(self, path: str | Path) -> Path:
        """Write the samples as NetCDF, all or nothing."""
        write_netcdf(path, self.to_xarray())
        return Path(path)

    def __repr__(self) -> str:
        last = self.misfit[-1]
        spread = f" +- {last.std():.3g}" if len(self) > 1 else ""
        calls = ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in self.counts.items() if v)
        return (
            f"Result({len(self)} sample(s) of {'x'.join(map(str, self.samples.shape[1:]))}; "
            f"misfit {last.mean():.4g}{spread}; {calls} a sample; {self.seconds:.1f} s; "
            f"{self.facts.get('solver', '')})"
        )

    def _repr_html_(self) -> str:
        return self.to_xarray()._repr_html_()


# ------------------------------------------------------------------------------ the loop


def sample(
    problem: InverseProblem,
    solver: Solver,
    n_samples: int = 1,
    seed: int = 0,
    *,
    batch_size: int | None = None,
    progress: bool = True,
    trajectory: bool = False,
    callback: Callable[[int, State], None] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 10,
    autocast: torch.dtype | None = None,
) -> Result:
    """Run ``solver`` on ``problem`` for ``n_samples`` independent samples.

    A sample depends on ``seed`` and its index alone, not on its company: the random numbers are
    exactly the same in any batch. What remains is the rounding of matrix products of another
    size, about 1e-6 relative in float32 per operation.

    Args:
        problem: prior, misfit and the map to physical units.
        solver: a method with its hyper-parameters.
        n_samples: how many samples.
        seed: any integer >= 0.
        batch_size: samples that run side by side; all when None. Less memory when smaller.
        progress: show a bar with noise level, data misfit and remaining time.
        trajectory: keep the estimate after every noise level.
        callback: called as ``callback(i, state)`` after level i.
        checkpoint: a file from which an interrupted run goes on; removed at the end.
        checkpoint_every: levels between two checkpoints.
        autocast: run the denoiser in this dtype, e.g. ``torch.bfloat16``.

    Raises:
        ValueError: the solver needs what the problem lacks, or an argument is out of range.
        NonFiniteError: a NaN or an infinity appeared.
    """
    _check(problem, solver, n_samples, batch_size)
    size = min(batch_size or n_samples, n_samples)
    counts = dict.fromkeys(
        ("denoiser_calls", "denoiser_vjps", "operator_calls", "operator_vjps"), 0
    )
    counted = _counted(problem, counts, autocast)
    sigmas = solver.sigmas
    levels, chunks = len(sigmas) - 1, range(0, n_samples, size)
    run = f"{solver!r} seed={seed} n={n_samples} batch={size} trajectory={trajectory}"
    store = _Checkpoint(checkpoint, key=f"{run} problem={_fingerprint(problem)}")
    started = time.monotonic()
    done: list[_Track] = []
    bar = tqdm(
        total=levels * len(chunks),
        disable=not progress,
        desc=type(solver).__name__,
        unit="level",
    )
    for first in chunks:
        noise = SampleNoise(seed, tuple(range(first, min(first + size, n_samples))))
        saved = store.load(first)
        if saved is None:
            track = _Track(solver.init(counted, noise), [], [], 0)
        else:
            track, counts_saved = saved
            counts.update(counts_saved)
            track = replace(track, state=_moved(track.state, problem.like(1).device))
        bar.update(track.level)
        for i in range(track.level, levels):
            with torch.no_grad():
                state = solver.step(i, track.state, counted, noise)
                misfit = problem.misfit(state.estimate)
            _check_finite(state, misfit, solver, i, float(sigmas[i]))
            track = _Track(
                state,
                [*track.misfits, misfit.cpu()],
                [*track.estimates, state.estimate.cpu()] if trajectory else [],
                i + 1,
            )
            if callback is not None:
                callback(i, state)
            bar.set_postfix(sigma=f"{float(sigmas[i]):.3g}", misfit=f"{misfit.mean():.4g}")
            bar.update()
            if (i + 1) % checkpoint_every == 0 or i + 1 == levels:
                store.save(first, track, counts)
        done.append(track)
    bar.close()
    result = _result(problem, solver, seed, done, sigmas, counts, time.monotonic() - started)
    store.remove()
    return result


def _result(problem, solver, seed, done, sigmas, counts, seconds) -> Result:
    estimates = torch.cat([track.state.estimate for track in done])
    return Result(
        samples=problem.affine.to_physical(estimates).cpu().numpy(),
        estimates=estimates,
        misfit=torch.cat([torch.stack(track.misfits) for track in done], 1).numpy(),
        sigmas=sigmas[:-1].numpy(),
        counts={name: count // len(done) for name, count in counts.items()},
        seconds=seconds,
        template=problem.template,
        facts={"solver": repr(solver), "seed": seed, **_versions(), **problem.facts},
        trajectory=(
            torch.cat([torch.stack(t.estimates) for t in done], 1).numpy()
            if done[0].estimates
            else None
        ),
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("lmaps-science")
    except PackageNotFoundError:  # run from a source tree that is not installed
        own = "unknown"
    return {"lmaps_science_version": own, "torch_version": str(torch.__version__)}


def _check(problem: InverseProblem, solver: Solver, n_samples: int, batch_size: int | None) -> None:
    if n_samples < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(
            f"n_samples and batch_size must be at least 1, got {n_samples} and {batch_size}."
        )
    lacking = solver.requires - problem.provides
    if lacking:
        raise ValueError(
            f"{type(solver).__name__} needs a problem that is {' and '.join(sorted(lacking))}; "
            f"this one provides {', '.join(sorted(problem.provides))}. Choose another solver, "
            f"e.g. LMAPS(local=LBFGS()), or an operator with that property."
        )


def _check_finite(state: State, misfit: Tensor, solver: Solver, level: int, sigma: float) -> None:
    finite = torch.isfinite(state.x).flatten(1).all(1) & torch.isfinite(misfit)
    finite &= torch.isfinite(state.estimate).flatten(1).all(1)
    if not bool(finite.all()):
        raise NonFiniteError(
            f"{type(solver).__name__}: sample(s) {torch.nonzero(~finite).flatten().tolist()} of "
            f"the batch became NaN or infinite at level {level} (sigma = {sigma:.4g}). Most often "
            f"the step of the data term is too long for this operator and noise: lower the "
            f"learning rate or kappa2 (here {solver!r}), or use LBFGS(), which chooses its steps."
        )


# ------------------------------------------------------------------------------ checkpoints


@dataclass(frozen=True)
class _Track:
    """One batch on its way: its state, and what has been recorded of it."""

    state: State
    misfits: list[Tensor]
    estimates: list[Tensor]
    level: int


def _moved(state: State, device: torch.device) -> State:
    x, estimate, extra = move((state.x, state.estimate, dict(state.extra)), device)
    return State(x, estimate, extra)


def _fingerprint(problem: InverseProblem) -> str:
    """Tells problems apart: the prior's name, and the misfit of a fixed image."""
    image = SampleNoise(0, (0,)).normal(problem.like(1), 0)
    return f"{problem.prior!r}, {float(problem.misfit(image)):.4g}"


class _Checkpoint:
    """Batches of a run that are finished or on their way, in one file."""

    def __init__(self, path: str | Path | None, key: str) -> None:
        self.path = None if path is None else Path(path)
        self.key, self.batches = key, {}
        if self.path is None or not self.path.exists():
            return
        saved = torch.load(self.path, weights_only=True, map_location="cpu")
        if saved["key"] != key:
            raise ValueError(
                f"{self.path} holds another run ({saved['key']}), not this one ({key}). "
                "Remove it, or give each run its own checkpoint file."
            )
        self.batches = saved["batches"]

    def load(self, first: int) -> tuple[_Track, dict[str, int]] | None:
        if first not in self.batches:
            return None
        b = self.batches[first]
        state = State(b["x"], b["estimate"], b["extra"])
        return _Track(state, b["misfits"], b["estimates"], b["level"]), b["counts"]

    def save(self, first: int, track: _Track, counts: dict[str, int]) -> None:
        if self.path is None:
            return
        self.batches[first] = {
            "x": track.state.x,
            "estimate": track.state.estimate,
            "extra": dict(track.state.extra),
            "misfits": track.misfits,
            "estimates": track.estimates,
            "level": track.level,
            "counts": dict(counts),
        }
        with atomic_write(self.path) as temporary:
            torch.save({"key": self.key, "batches": self.batches}, temporary)

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
