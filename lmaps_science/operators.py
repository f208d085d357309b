"""Operators: how an image becomes data. Public methods check, private ones compute; no state.

Images are batches (B, C, H, W); data are (B, ...), real or complex. Adjoints and vector-Jacobian
products are for the real inner product Re sum conj(v) y (PyTorch's convention), so that a real
image gets a real result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from lmaps_science.arrays import (
    Movable,
    check_images,
    check_shape,
    difference,
    norm,
    per_sample,
    real_dtype,
)
from lmaps_science.metering import Meter

__all__ = ["Affine", "Composed", "LinearOperator", "Operator", "SVDOperator", "Scaling"]

OperatorType = TypeVar("OperatorType", bound="Operator")


class Operator(Movable):
    """y = H(x). A subclass sets `image_shape` and `data_shape` and writes `_forward`.

    `image_shape` is (C, H, W); `data_shape` is that of one sample's data, None when not fixed.
    Where a closed form beats autograd, write `_vjp`, or `_pullback` when both share work.

    Attributes:
        provides: properties that solvers may require, see `sampling.Solver`. An operator whose
            derivative is missing or of no use says so by leaving out `differentiable`; a
            `surrogate.Surrogate` gives it that of another.
        batch: the number of images it is for, where it differs from image to image (an
            observation's own coil maps); None: any number.

    Example:
        >>> class Square(Operator):
        ...     image_shape, data_shape = (1, 2, 2), (1, 2, 2)
        ...     def _forward(self, x):
        ...         return x**2
        >>> x = torch.full((1, 1, 2, 2), 3.0)
        >>> Square().vjp(x, torch.ones(1, 1, 2, 2))[0, 0]  # 2 x
        tensor([[6., 6.],
                [6., 6.]])
    """

    image_shape: tuple[int, ...]
    data_shape: tuple[int, ...] | None = None
    batch: int | None = None
    provides: frozenset[str] = frozenset({"differentiable"})
    _meter: Meter | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Data of the images `x`: (B, C, H, W) -> (B, *data_shape)."""
        self._check_image(x)
        self._count("operator_calls")
        y = self._forward(x)
        self._check_output(y, len(x))
        return y

    def _forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _forward(x).")

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """Vector-Jacobian product J(x)^H v, like `x`; `v` is like the data."""
        self._check_differentiable()
        self._check_image(x)
        self._check_data(v)
        self._count("operator_vjps")
        return self._vjp(x, v)

    def _vjp(self, x: Tensor, v: Tensor) -> Tensor:
        return self._pullback(x)[1](v)

    def pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The data H(x) and the map v -> J(x)^H v, from one forward pass."""
        self._check_differentiable()
        self._check_image(x)
        self._count("operator_calls")
        y, pull = self._pullback(x)
        self._check_output(y, len(x))

        def checked_pull(v: Tensor) -> Tensor:
            self._check_data(v)
            self._count("operator_vjps")
            return pull(v)

        return y, checked_pull

    def _pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        if type(self)._vjp is not Operator._vjp:
            return self._forward(x), partial(self._vjp, x)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            y = self._forward(leaf)
        if not y.requires_grad:  # e.g. a comparison, or a detour through NumPy
            raise self._not_differentiable("gives data through which autograd finds no way")

        def pull(v: Tensor) -> Tensor:
            return torch.autograd.grad(y, leaf, v.to(y.dtype), retain_graph=True)[0]

        return y.detach(), pull

    @property
    def linear(self) -> LinearOperator | None:
        """The Jacobian when it is the same for every image (H is affine), else None."""
        found = self._linear()
        if found is None or self._meter is None:
            return found
        return found.metered(self._meter)

    def _linear(self) -> LinearOperator | None:
        return None

    # ---------------------------------------------------------------- copies

    def metered(self: OperatorType, meter: Meter) -> OperatorType:
        """A copy that counts its calls in `meter`."""
        copied = copy.copy(self)
        copied._meter = meter
        return copied

    def select(self: OperatorType, rows: Tensor) -> OperatorType:
        """The operator of these images of the `batch`: integers (B,), repeated where need be."""
        return self if self.batch is None else self._select(rows)

    def _select(self: OperatorType, rows: Tensor) -> OperatorType:
        raise NotImplementedError(f"{type(self).__name__} must define _select(rows).")

    @classmethod
    def stack(cls, operators: Sequence[Operator]) -> Operator:
        """One operator for a batch, from one operator for each of its images.

        Raises:
            ValueError: they cannot be joined: the reason.
        """
        first = operators[0]
        reasons = [difference(first, other, type(first).__name__) for other in operators[1:]]
        reason = next((r for r in reasons if r is not None), None)
        if reason is None:
            return first
        if any(type(other) is not type(first) for other in operators):
            raise ValueError(f"operators of different kinds cannot share a batch: {reason}.")
        return first._stacked(operators, reason)

    def _stacked(self, operators: Sequence[Operator], reason: str) -> Operator:
        """The joint operator of several of this type that differ, `reason` says where."""
        raise ValueError(
            f"observations can only share a batch where their operators are the same: {reason}."
        )

    def _count(self, *names: str) -> None:
        if self._meter is not None:
            self._meter.add(*names)

    def __matmul__(self, other: Operator) -> Operator:
        """`(a @ b)(x) == a(b(x))`; linear when both are."""
        if not isinstance(other, Operator):
            return NotImplemented
        if isinstance(self, SVDOperator) and isinstance(other, Scaling):
            return _ScaledSVD(self, other)
        both = isinstance(self, LinearOperator) and isinstance(other, LinearOperator)
        return (_ComposedLinear if both else Composed)(self, other)

    def _check_differentiable(self) -> None:
        if "differentiable" not in self.provides:
            raise self._not_differentiable("says that it is not differentiable")

    def _not_differentiable(self, reason: str) -> ValueError:
        return ValueError(
            f"{type(self).__name__} {reason}: take the Jacobian of a smooth operator close to it, "
            f"e.g. Surrogate(operator, Scaling(1.0, {tuple(self.image_shape)})), or a solver that "
            "needs no derivative."
        )

    def _check_image(self, x: Tensor) -> None:
        owner = type(self).__name__
        check_images(owner, x, self.image_shape)
        for tensor in self._tensors():
            if tensor.device != x.device or real_dtype(tensor.dtype) != real_dtype(x.dtype):
                raise ValueError(
                    f"{owner}: image is {x.dtype} on {x.device}, the operator holds {tensor.dtype} "
                    f"on {tensor.device}. Move one, e.g. operator.to({str(x.device)!r}, "
                    f"{real_dtype(x.dtype)})."
                )

    def _check_data(self, y: Tensor) -> None:
        if self.data_shape is not None:
            check_shape(type(self).__name__, "data", y, ("B", *self.data_shape))

    def _check_output(self, y: Tensor, batch: int) -> None:
        """A mistake of whoever wrote the operator: found at its first call."""
        fits = isinstance(y, Tensor) and y.ndim >= 2 and len(y) == batch
        if fits and self.data_shape is not None:
            fits = tuple(y.shape[1:]) == tuple(self.data_shape)
        if not fits:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            wanted = "..." if self.data_shape is None else ", ".join(map(str, self.data_shape))
            raise ValueError(
                f"{type(self).__name__}: its _forward gave {got} for {batch} image(s), expected "
                f"a tensor of shape ({batch}, {wanted}): the first axis is the batch, the rest "
                "data_shape. E.g. sum over x.sum(dim=(1, 2)), not x.sum()."
            )

    def _tensors(self) -> list[Tensor]:
        """The real and complex tensors it works with, those of operators inside it included."""
        found = []
        for value in vars(self).values():
            if isinstance(value, Operator):
                found += value._tensors()
            elif isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
                found.append(value)
        return found

    @property
    def like(self) -> Tensor:
        """An empty real tensor on its device, in its dtype: `x.to(operator.like)` moves x there."""
        tensor = next(iter(self._tensors()), torch.empty(0, dtype=torch.float32))
        return torch.empty(0, dtype=real_dtype(tensor.dtype), device=tensor.device)

    def __repr__(self) -> str:
        where = f"{self.like.dtype}, {self.like.device}" if self._tensors() else "any dtype"
        shapes = f"image {self.image_shape} -> data {self.data_shape}"
        return f"{type(self).__name__}({shapes}, {where})"


class LinearOperator(Operator):
    """y = A x. A subclass writes `_forward`, and `_adjoint` where a closed form beats autograd.

    Example:
        >>> class Columns(LinearOperator):
        ...     image_shape, data_shape = (1, 4, 4), (4,)
        ...
        ...     def _forward(self, x):
        ...         return x.sum(dim=(1, 2))
        >>> Columns().adjoint(torch.ones(2, 4)).shape
        torch.Size([2, 1, 4, 4])
    """

    def adjoint(self, y: Tensor) -> Tensor:
        """A^H y: (B, *data_shape) -> (B, C, H, W), with Re <y, A x> = Re <A^H y, x>."""
        self._check_data(y)
        self._count("operator_vjps")
        return self._adjoint(y)

    def _adjoint(self, y: Tensor) -> Tensor:
        image = torch.zeros((len(y), *self.image_shape), dtype=real_dtype(y.dtype), device=y.device)
        with torch.enable_grad():
            output = self._forward(image.requires_grad_())
        return torch.autograd.grad(output, image, y.to(output.dtype))[0]

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x, like `x`."""
        self._check_image(x)
        self._count("operator_calls", "operator_vjps")
        return self._normal(x)

    def _normal(self, x: Tensor) -> Tensor:
        """Override where the product is cheaper than its factors."""
        return self._adjoint(self._forward(x))

    def _vjp(self, x: Tensor, v: Tensor) -> Tensor:
        return self._adjoint(v)

    def _pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return self._forward(x), self._adjoint

    @property
    def linear(self) -> LinearOperator:
        """Itself."""
        return self

    def norm(self, iterations: int = 100, tolerance: float = 1e-4) -> float:
        """Largest singular value ||A||, see `norms`; the largest of a batch."""
        return float(self.norms(iterations, tolerance).max())

    def norms(
        self, iterations: int = 100, tolerance: float = 1e-4, like: Tensor | None = None
    ) -> Tensor:
        """||A|| of each image of the `batch` (or of all, (1,)), by power iteration on A^H A.

        The first image is random and always the same. The estimate never exceeds ||A||; it stops
        when its relative change is below `tolerance`. Device and precision are those of `like`,
        by default of the operator's own tensors, which not every operator has.
        """
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((1, *self.image_shape), generator=generator)
        x = x.to(self.like if like is None else like)
        x = x.expand(self.batch or 1, *self.image_shape)
        estimate = x.new_zeros(len(x))
        going = torch.ones_like(estimate, dtype=torch.bool)
        for _ in range(iterations):
            x = self.normal(x / per_sample(norm(x).clamp_min(torch.finfo(x.dtype).tiny), x))
            latest = norm(x).sqrt()
            changed = (latest - estimate).abs() > tolerance * latest
            estimate = torch.where(going, latest, estimate)
            going = going & changed
            if not bool(going.any()):
                break
        return estimate


class SVDOperator(LinearOperator):
    """A = U diag(s) V^T, thin: one entry of s per stored vector; A gives 0 outside the span of V.

    A subclass sets `singular_values` (r,) and writes `_Vt`, `_V`, `_Ut`, `_U`; the rest follows.

    Example:
        >>> from lmaps_science.physics.restoration import Inpainting
        >>> operator = Inpainting([[1, 0], [1, 1]], (1, 2, 2))
        >>> operator.singular_values
        tensor([1., 1., 1.])
    """

    singular_values: Tensor

    def Vt(self, x: Tensor) -> Tensor:
        """Coefficients of images on the right singular vectors: (B, C, H, W) -> (B, r)."""
        self._count("operator_calls")
        return self._Vt(x)

    def V(self, c: Tensor) -> Tensor:
        """Images from coefficients: (B, r) -> (B, C, H, W)."""
        self._count("operator_vjps")
        return self._V(c)

    def Ut(self, y: Tensor) -> Tensor:
        """Coefficients of data on the left singular vectors: (B, *data_shape) -> (B, r)."""
        self._count("operator_vjps")
        return self._Ut(y)

    def U(self, c: Tensor) -> Tensor:
        """Data from coefficients: (B, r) -> (B, *data_shape)."""
        self._count("operator_calls")
        return self._U(c)

    def _Vt(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _Vt(x).")

    def _V(self, c: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _V(c).")

    def _Ut(self, y: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _Ut(y).")

    def _U(self, c: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _U(c).")

    def _forward(self, x: Tensor) -> Tensor:
        return self._U(self.singular_values * self._Vt(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._V(self.singular_values * self._Ut(y))

    def norms(
        self, iterations: int = 100, tolerance: float = 1e-4, like: Tensor | None = None
    ) -> Tensor:
        """The largest singular value, exactly, (1,)."""
        return self.singular_values.max()[None]


class Scaling(LinearOperator):
    """y = scale x, on images of `image_shape`.

    Example:
        >>> Scaling(2.0, (1, 1, 2)).adjoint(torch.ones(1, 1, 1, 2))
        tensor([[[[2., 2.]]]])
    """

    def __init__(self, scale: float, image_shape: tuple[int, ...]):
        self.scale, self.image_shape, self.data_shape = float(scale), image_shape, image_shape

    def _forward(self, x: Tensor) -> Tensor:
        return self.scale * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.scale * y


class Affine(Operator):
    """Model space to physical space: x_phys = (x_model + shift) scale; `to_model` is the inverse.

    `Affine(0.5, 1.0, (1, 64, 64))` maps [-1, 1] to [0, 1]. Raises ValueError when `scale` is 0.

    Example:
        >>> Affine(0.5, 1.0, (1, 2, 2))(-torch.ones(1, 1, 2, 2)).sum().item()
        0.0
    """

    def __init__(self, scale: float, shift: float, image_shape: tuple[int, ...]):
        if scale == 0:
            raise ValueError("Affine: scale 0 has no inverse; give e.g. Affine(0.5, 1.0, shape).")
        self.scale, self.shift = float(scale), float(shift)
        self.image_shape = self.data_shape = tuple(image_shape)

    def _forward(self, x: Tensor) -> Tensor:
        return (x + self.shift) * self.scale

    def to_model(self, x: Tensor) -> Tensor:
        """x / scale - shift, (B, C, H, W)."""
        self._check_image(x)
        return x / self.scale - self.shift

    def _vjp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.scale * v

    def _linear(self) -> LinearOperator:
        return Scaling(self.scale, self.image_shape)

    def __repr__(self) -> str:
        return f"Affine((x + {self.shift:g}) * {self.scale:g}, image {self.image_shape})"


class Composed(Operator):
    """(outer @ inner)(x) = outer(inner(x)); the chain rule gives its vector-Jacobian product.

    Example:
        >>> double, half = Scaling(2.0, (1, 2, 2)), Scaling(0.5, (1, 2, 2))
        >>> (double @ half)(torch.ones(1, 1, 2, 2))[0, 0]
        tensor([[1., 1.],
                [1., 1.]])
    """

    def __init__(self, outer: Operator, inner: Operator):
        if inner.data_shape is not None and tuple(inner.data_shape) != tuple(outer.image_shape):
            raise ValueError(
                f"{outer!r} @ {inner!r}: the right one is applied first and gives "
                f"{tuple(inner.data_shape)}, the left one takes {tuple(outer.image_shape)}."
            )
        self.outer, self.inner = outer, inner
        self.image_shape, self.data_shape = inner.image_shape, outer.data_shape
        self.batch = outer.batch if inner.batch is None else inner.batch
        self.provides = outer.provides & inner.provides & {"differentiable"}

    def _forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def _pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The data and the map v -> J_inner^H J_outer^H v."""
        middle, pull_inner = self.inner.pullback(x)
        y, pull_outer = self.outer.pullback(middle)
        return y, lambda v: pull_inner(pull_outer(v))

    def _linear(self) -> LinearOperator | None:
        """The product of the two Jacobians when both are constant."""
        outer, inner = self.outer.linear, self.inner.linear
        if outer is None or inner is None:
            return None
        product = outer @ inner
        return product if isinstance(product, LinearOperator) else None

    def _select(self, rows: Tensor) -> Composed:
        return self._of(self.outer.select(rows), self.inner.select(rows))

    def _stacked(self, operators: Sequence[Operator], reason: str) -> Operator:
        outers = Operator.stack([o.outer for o in operators])  # type: ignore[attr-defined]
        inners = Operator.stack([o.inner for o in operators])  # type: ignore[attr-defined]
        return self._of(outers, inners)

    def _of(self, outer: Operator, inner: Operator) -> Composed:
        """The same composition of other parts, with this one's meter."""
        joined = outer @ inner
        joined._meter = self._meter
        return joined  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"{self.outer!r} @ {self.inner!r}"


class _ComposedLinear(Composed, LinearOperator):
    outer: LinearOperator
    inner: LinearOperator
    _vjp = LinearOperator._vjp
    _pullback = LinearOperator._pullback
    linear = LinearOperator.linear

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


class _ScaledSVD(_ComposedLinear, SVDOperator):
    """A (scale x) has the SVD of A with scaled singular values; a negative sign goes into U."""

    outer: SVDOperator
    inner: Scaling
    norms = SVDOperator.norms

    def __init__(self, outer: SVDOperator, inner: Scaling):
        super().__init__(outer, inner)
        self.sign = 1.0 if inner.scale > 0 else -1.0

    @property
    def singular_values(self) -> Tensor:  # type: ignore[override]
        # Where they are asked for: to find those of the other operator may take long.
        return abs(self.inner.scale) * self.outer.singular_values

    def _Vt(self, x: Tensor) -> Tensor:
        return self.outer.Vt(x)

    def _V(self, c: Tensor) -> Tensor:
        return self.outer.V(c)

    def _Ut(self, y: Tensor) -> Tensor:
        return self.sign * self.outer.Ut(y)

    def _U(self, c: Tensor) -> Tensor:
        return self.sign * self.outer.U(c)
