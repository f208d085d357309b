"""The loop over batches of samples and noise levels."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmaps_science.metering import Meter
from lmaps_science.noise import SampleNoise
from lmaps_science.sampling.checkpoint import Checkpoint, Track
from lmaps_science.sampling.progress import Progress
from lmaps_science.sampling.protocol import InverseProblem, Solver, State
from lmaps_science.sampling.result import Result

__all__ = ["NonFiniteError", "sample"]


CHECKPOINT_SECONDS = 30.0  # at most so much work is lost, and a level


class NonFiniteError(FloatingPointError):
    """A NaN or an infinity appeared in a sample."""


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
    checkpoint_every: int | None = 10,
    autocast: torch.dtype | None = None,
) -> Result:
    """Run `solver` on `problem` for `n_samples` independent samples.

    A sample depends on `seed` and its index alone, not on its company: the random numbers are
    exactly the same in any batch. What remains is the rounding of matrix products of another
    size, about 1e-6 relative in float32 per operation.

    Args:
        problem: prior, misfit and the map to physical units.
        solver: a method with its hyper-parameters.
        n_samples: how many samples.
        seed: any integer >= 0.
        batch_size: samples that run side by side; all when None. Less memory when smaller. A
            solver of particles, such as `Population`, has all those of a sample side by side.
        progress: show noise level, data misfit and remaining time: a bar on a terminal and in
            notebooks, elsewhere a line on stderr after the first level (of 5 s at least) and then
            every minute.
        trajectory: keep the estimate after every noise level.
        callback: called as `callback(i, state)` after level i.
        checkpoint: a file from which the same call goes on after an interruption, and from which
            it returns at once when the run was finished. The file stays: remove it when the result
            is safe.
        checkpoint_every: levels between two checkpoints; there is one after 30 s, too, at the end,
            and when the run is interrupted (KeyboardInterrupt). None: after 30 s and when
            interrupted alone.
        autocast: run the denoiser in this dtype, e.g. `torch.bfloat16`.

    Raises:
        ValueError: the solver needs what the problem lacks, an argument is out of range, or the
            checkpoint is of another run.
        NonFiniteError: a NaN or an infinity appeared.

    Example:
        >>> from lmaps_science import LMAPS, Affine, GaussianMisfit, from_function
        >>> prior = from_function(lambda x, sigma: x / (1 + sigma**2), (1, 8, 8))
        >>> decode = Affine(0.5, 1.0, (1, 8, 8))
        >>> misfit = GaussianMisfit(decode, torch.full((1, 1, 8, 8), 0.5), sigma=0.1)
        >>> problem = InverseProblem(prior, misfit, decode)
        >>> sample(problem, LMAPS(levels=3), n_samples=2, progress=False).samples.shape
        (2, 1, 8, 8)
    """
    _check(problem, solver)
    _check_sizes(n_samples=n_samples, batch_size=batch_size, checkpoint_every=checkpoint_every)
    total = n_samples * problem.observations
    size = min(batch_size or total, total)
    run = f"{solver!r} seed={seed} n={n_samples} batch={size} trajectory={trajectory}"
    store = Checkpoint(checkpoint, f"{run} autocast={autocast}", problem)
    meter = Meter(store.counts)
    sigmas, chunks, tracks = solver.sigmas, range(0, total, size), []
    levels, started = len(sigmas) - 1, time.monotonic() - store.seconds
    name, saved_at = type(solver).__name__, time.monotonic()
    bar = Progress(name, levels * len(chunks), store.levels, shown=progress)
    with bar, torch.no_grad():
        for first in chunks:
            plain, noise = _batch(problem, seed, range(first, min(first + size, total)), n_samples)
            track = store.track(first, len(noise.samples), solver)
            spent = dict(meter.counts)
            try:
                metered = plain.metered(meter, autocast)
                if "conditional" in solver.requires:
                    metered = metered.told(len(noise.samples))
                metered = metered.prepare(solver)
                if track is None:
                    track = Track(solver.init(metered, noise))
                else:
                    meter.counts = dict(spent)  # to prepare was counted before the interruption
                for i in range(track.level, levels):
                    state = solver.step(i, track.state, metered, noise)
                    misfit = plain.misfit(state.estimate)
                    _check_finite(state, misfit, solver, i)
                    track, spent = track.after(state, misfit, trajectory), dict(meter.counts)
                    if callback is not None:
                        callback(i, state)
                    bar.step(sigma=f"{float(sigmas[i]):.3g}", misfit=f"{misfit.mean():.4g}")
                    due = time.monotonic() - saved_at >= CHECKPOINT_SECONDS
                    if checkpoint_every is not None:
                        due |= track.level % checkpoint_every == 0 or track.level == levels
                    if due:
                        store.keep(first, track)
                        store.save(spent, time.monotonic() - started)
                        saved_at = time.monotonic()
            except KeyboardInterrupt:
                if track is not None and track.level:  # the level under way is done again
                    store.keep(first, track)
                store.save(spent, time.monotonic() - started)
                raise
            store.keep(first, track)
            tracks.append(track)
    seconds = time.monotonic() - started
    return _result(problem, solver, seed, size, tracks, meter.counts, seconds)


def _batch(
    problem: InverseProblem, seed: int, rows: Sequence[int], n_samples: int
) -> tuple[InverseProblem, SampleNoise]:
    """The problem and the noise of these rows: sample k of observation n is row n n_samples + k."""
    owners, samples = zip(*(divmod(row, n_samples) for row in rows), strict=True)
    keys = problem.keys
    owned = [keys[0] if len(keys) == 1 else keys[n] for n in owners]
    return problem.select(owners), SampleNoise(seed, samples, tuple(owned))


def _result(
    problem: InverseProblem,
    solver: Solver,
    seed: int,
    size: int,
    tracks: Sequence[Track],
    counts: Mapping[str, int],
    seconds: float,
) -> Result:
    with torch.no_grad():
        decoded = [problem.decode(track.state.estimate) for track in tracks]
    kept = [torch.stack(track.estimates) for track in tracks if track.estimates]
    return Result(
        samples=torch.cat(decoded).cpu().numpy(),
        estimates=torch.cat([track.state.estimate for track in tracks]),
        misfit=torch.cat([torch.stack(track.misfits) for track in tracks], 1).numpy(),
        sigmas=solver.sigmas[:-1].numpy(),
        counts={name: count // len(tracks) for name, count in counts.items()},
        seconds=seconds,
        template=problem.template,
        facts={
            "solver": repr(solver),
            "seed": seed,
            "batch_size": size,
            **({} if solver.caution is None else {"caution": solver.caution}),
            **_circumstances(problem),
            **problem.facts,
        },
        trajectory=torch.cat(kept, 1).numpy() if kept else None,
        observations=problem.observations,
    )


def _circumstances(problem: InverseProblem) -> dict[str, Any]:
    """Versions, device, threads and precision, on which rounding depends."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("lmaps-science")
    except PackageNotFoundError:  # run from a source tree that is not installed
        own = "unknown"
    like = problem.like(1)
    cuda = like.device.type == "cuda"
    return {
        "lmaps_science_version": own,
        "torch_version": str(torch.__version__),
        "numpy_version": np.__version__,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(like.device) if cuda else like.device.type,
        "dtype": str(like.dtype).removeprefix("torch."),
    }


def _check(problem: InverseProblem, solver: Solver) -> None:
    if not isinstance(solver, Solver):
        name = solver.__name__ if isinstance(solver, type) else type(solver).__name__
        raise TypeError(
            f"sample: expected a solver such as LMAPS(levels=50), got "
            f"{f'the class {name}: write {name}()' if isinstance(solver, type) else name}."
        )
    words = {
        "covariance": "equipped with its prior's covariance",
        "conditional": "equipped with a conditional denoiser (`lmaps prior train-conditional`)",
        "encoder": "of latents (`prior: {kind: latent}`, whose decoder has an encoder)",
        "noise": "of stated noise (its misfit defines noise_floor)",
    }
    lacking = [words.get(name, name) for name in sorted(solver.requires - problem.provides)]
    if lacking:
        raise ValueError(
            f"{type(solver).__name__} needs a problem that is {' and '.join(lacking)}; "
            f"this one provides {', '.join(sorted(problem.provides))}. Choose another solver, "
            f"e.g. LMAPS(local=LBFGS()), or an operator or a prior with that property."
        )


def _check_sizes(**sizes: int | None) -> None:
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def _check_finite(state: State, misfit: Tensor, solver: Solver, level: int) -> None:
    finite = torch.isfinite(state.x).reshape(len(misfit), -1).all(1) & torch.isfinite(misfit)
    finite &= torch.isfinite(state.estimate).flatten(1).all(1)
    if not bool(finite.all()):
        raise NonFiniteError(
            f"{type(solver).__name__}: sample(s) {torch.nonzero(~finite).flatten().tolist()} of "
            f"the batch became NaN or infinite at level {level} (sigma = "
            f"{float(solver.sigmas[level]):.4g}). Most often the step of the data term is too long "
            f"for this operator and noise: lower the learning rate or kappa2 (here {solver!r}), or "
            f"use LBFGS(), which chooses its steps. Methods that follow the root of the misfit, as "
            "DPS does, end so, too, where it is negative: give one whose smallest value is about 0."
        )
