"""Iterative solvers on callables: they know no physics, and treat each sample on its own.

Vectors are real batches (B, ...): the unknowns are images, of two channels where they are complex,
and data enter through an adjoint. Every scalar of an iteration (step lengths, inner products,
convergence) is one number per sample, so that the solution for a sample does not depend on its
company. Samples that have converged are left as they are while the others go on.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lmaps_science.arrays import inner, norm, per_sample

__all__ = ["adam", "bicgstab", "conjugate_gradient", "lbfgs"]


def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    x0: Tensor | None = None,
    iterations: int = 100,
    tolerance: float = 1e-6,
) -> Tensor:
    r"""Solve `A x = b` for a symmetric positive (semi-)definite `A`, one system per sample.

    Args:
        matvec: `x -> A x`, both (B, ...).
        b: right-hand sides (B, ...).
        x0: starting point, 0 when None.
        iterations: at most this many products with `A`.
        tolerance: a sample stops at `||b - A x|| <= tolerance ||b||`.

    Returns:
        The solutions, like `b`; NaN for a sample whose `b` is not finite.

    Source: Hestenes and Stiefel 1952.
    """
    x = torch.zeros_like(b) if x0 is None else x0.clone()
    r = b - matvec(x) if x0 is not None else b.clone()
    goal = (tolerance**2) * inner(b, b)
    p, rr = r, inner(r, r)
    x = torch.where(per_sample(torch.isfinite(rr), x), x, torch.nan)
    largest, eps = torch.zeros_like(rr), torch.finfo(rr.dtype).eps
    for _ in range(iterations):
        active = rr > goal
        if not bool(active.any()):
            break
        q = matvec(p)
        pq = inner(p, q)
        curvature = pq / inner(p, p).where(active, torch.ones_like(pq))
        largest = torch.maximum(largest, curvature)
        active &= curvature > eps * largest  # else p is in the null space, to rounding
        step = torch.where(active, rr / pq.where(active, torch.ones_like(pq)), 0.0)
        x = torch.addcmul(x, per_sample(step, x), p)
        r = torch.addcmul(r, per_sample(step, r), q, value=-1)
        new = inner(r, r)
        ratio = torch.where(active, new / rr.where(active, torch.ones_like(rr)), 0.0)
        p = torch.addcmul(r, per_sample(ratio, p), p)
        rr = torch.where(active, new, torch.zeros_like(rr))
    return x


def bicgstab(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    x0: Tensor | None = None,
    iterations: int = 500,
    tolerance: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    r"""Solve `A x = b` for any square `A`, real or complex, one system per sample.

    Args:
        matvec: `x -> A x`, both (B, ...).
        b: right-hand sides (B, ...).
        x0: starting point, 0 when None.
        iterations: at most this many steps of two products with `A` each.
        tolerance: a sample stops at `||b - A x|| <= tolerance ||b||`.

    Returns:
        The solutions, like `b`, and their relative residuals (B,), computed from `b - A x`:
        the caller decides what to do with a sample that has not converged.

    Source: van der Vorst 1992; the shadow residual is replaced where the method breaks down.
    """
    x = torch.zeros_like(b) if x0 is None else x0.clone()
    goal = tolerance**2 * _square(b)
    r = b - matvec(x)
    shadow, p, v = r, torch.zeros_like(b), torch.zeros_like(b)
    rho = alpha = omega = inner(b, b).new_ones(len(b))
    exact = True  # r is b - A x itself, not the recursion for it
    for _ in range(iterations):
        rr = _square(r)
        active = rr > goal
        if not bool(active.any()):
            if exact:
                break
            r = b - matvec(x)  # rounding separates the two: start anew from the true one
            shadow, p, v, exact = r, torch.zeros_like(b), torch.zeros_like(b), True
            rho = alpha = omega = torch.ones_like(rho)
            continue
        new = inner(shadow, r)
        stuck = new.abs() <= torch.finfo(b.dtype).eps * rr
        shadow = torch.where(per_sample(stuck, r), r, shadow)
        new = torch.where(stuck, rr.to(new.dtype), new)
        beta = torch.where(stuck, 0, _ratio(new, rho) * _ratio(alpha, omega))
        p = r + per_sample(beta, p) * (p - per_sample(omega, v) * v)
        v = matvec(p)
        alpha = torch.where(active, _ratio(new, inner(shadow, v)), 0)
        s = r - per_sample(alpha, v) * v
        t = matvec(s)
        omega = torch.where(active, _ratio(inner(t, s), inner(t, t)), 0)
        x = x + per_sample(alpha, p) * p + per_sample(omega, s) * s
        r, rho, exact = s - per_sample(omega, t) * t, new, False
    return x, (_square(b - matvec(x)) / _square(b).clamp_min(torch.finfo(b.dtype).tiny)).sqrt()


def _square(a: Tensor) -> Tensor:
    """`||a||^2` of each sample (B,), real; for complex numbers much faster than the norm."""
    return inner(a, a).real


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """`a / b`, and 0 where `b` is 0."""
    return torch.where(b == 0, 0, a / torch.where(b == 0, 1, b))


def adam(
    slope: Tensor, first: Tensor, second: Tensor, t: int, betas: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """The direction of step `t` = 1, 2, ... and the new moments; all like `slope`.

    Both moments are 0 before the first step. Source: Kingma and Ba 2015, algorithm 1.
    """
    b1, b2 = betas
    first = b1 * first + (1 - b1) * slope
    second = b2 * second + (1 - b2) * slope**2
    return first / (1 - b1**t) / ((second / (1 - b2**t)).sqrt() + 1e-8), first, second


def lbfgs(
    gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    *,
    iterations: int = 20,
    memory: int = 10,
    tolerance: float = 1e-4,
    first_step: float | Tensor = 1.0,
) -> Tensor:
    r"""Minimise a function of each sample by limited-memory BFGS with a backtracking line search.

    Args:
        gradient: `x -> (gradients like x, values (B,))`.
        x: starting points (B, ...).
        iterations: at most this many evaluations, those of the line search included.
        memory: pairs of steps and gradient changes that model the Hessian.
        tolerance: a sample stops when a step lowers its value by less than `tolerance` times
            the total decrease so far, twice running, or when no step along the search direction
            lowers it.
        first_step: length of the first step along the normalised gradient, in the units of `x`
            (Euclidean norm), a number or (B,).

    Returns:
        The best points found, like `x`; no value is above that of the start. NaN for a sample
        whose value or gradient at the start is not finite.

    Source: Nocedal and Wright 2006, algorithms 3.1 and 7.5.
    """
    g, f = gradient(x)
    size, start = norm(g), f
    x = torch.where(per_sample(torch.isfinite(size + f), x), x, torch.nan)
    # All samples' pairs stand side by side in the order of time, each with its own weight
    # rho = 1 / s.y, 0 where a sample has no use for it: so a step of one sample neither pushes out
    # a pair of another nor enters its result.
    pairs: list[tuple[Tensor, Tensor]] = []
    rho = f.new_zeros(0, len(f))
    scale = torch.ones_like(f)  # of the inverse Hessian, which the newest pair of a sample sets
    tiny = torch.finfo(x.dtype).tiny
    d = -g * per_sample(first_step / torch.where(size > 0, size.clamp_min(tiny), 1), g)
    slope, t = inner(g, d), torch.ones_like(f)
    active = slope < 0
    idle = torch.zeros_like(f)  # how many steps running brought (almost) nothing
    for _ in range(1, iterations):
        if not bool(active.any()):
            break
        trial = x + per_sample(torch.where(active, t, 0.0), d) * d
        g_new, f_new = gradient(trial)
        accept = active & (f_new <= f + 1e-4 * t * slope)
        reject = active & ~accept
        # A rejected step is shortened to the minimum of the parabola through what is known.
        parabola = -slope * t / (2 * ((f_new - f) / t - slope))
        parabola = parabola.nan_to_num(0.0, 0.0, 0.0)
        t = torch.where(reject, torch.minimum(torch.maximum(parabola, 0.1 * t), 0.5 * t), t)

        s, y = trial - x, g_new - g
        sy = inner(s, y)
        useful = accept & (sy > 1e-10 * norm(y) * norm(s))
        if bool(useful.any()):
            used = per_sample(useful, s)  # what is not used may be NaN
            pairs.append((torch.where(used, s, 0), torch.where(used, y, 0)))
            rho = torch.cat([rho, torch.where(useful, 1 / sy, 0)[None]])
            later = (rho != 0).flip(0).cumsum(0).flip(0)  # pairs of a sample from this one on
            rho = torch.where(later <= memory, rho, 0)
            while len(pairs) > memory and not bool(rho[0].any()):
                pairs, rho = pairs[1:], rho[1:]
            curvature = inner(y, y) * rho[-1]
            scale = torch.where(curvature > 0, 1 / curvature, scale)

        stalled = f - f_new <= tolerance * (start - f_new)
        idle = torch.where(accept, torch.where(stalled, idle + 1, 0.0), idle)
        x = torch.where(per_sample(accept, x), trial, x)
        g = torch.where(per_sample(accept, g), g_new, g)
        f = torch.where(accept, f_new, f)
        d = torch.where(per_sample(accept, d), -_two_loop(g, pairs, rho, scale), d)
        slope = inner(g, d)
        t = torch.where(accept, 1.0, t)
        active = active & ~(reject & (t < 1e-6)) & (idle < 2) & (slope < 0)
    return x


def _two_loop(g: Tensor, pairs: list[tuple[Tensor, Tensor]], rho: Tensor, scale: Tensor) -> Tensor:
    """The inverse Hessian of the pairs times `g`."""
    q, alphas = g, []
    for (s, y), r in zip(reversed(pairs), rho.flip(0), strict=True):
        alphas.append(r * inner(s, q))
        q = torch.addcmul(q, per_sample(alphas[-1], y), y, value=-1)
    q = per_sample(scale, q) * q
    for (s, y), r, alpha in zip(pairs, rho, reversed(alphas), strict=True):
        q = torch.addcmul(q, per_sample(alpha - r * inner(y, q), s), s)
    return q
