"""Operators: how an image becomes data. Public methods check, private ones compute; no state.

Images are batches (B, C, H, W); data are (B, ...), real or complex. Adjoints and vector-Jacobian
products are for the real inner product Re sum conj(v) y (PyTorch's convention), so that a real
image gets a real result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lmaps_science.arrays import (
    Movable,
    check_images,
    check_shape,
    norm,
    per_sample,
    real_dtype,
)

__all__ = ["Affine", "Composed", "LinearOperator", "Operator", "SVDOperator", "Scaling"]


class Operator(Movable):
    """y = H(x). A subclass sets `image_shape` and `data_shape` and writes `_forward`.

    `image_shape` is (C, H, W); `data_shape` is that of one sample's data, None when not fixed.
    Where a closed form beats autograd, override `vjp`, or `pullback` when both share work.
    """

    image_shape: tuple[int, ...]
    data_shape: tuple[int, ...] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Data of the images `x`: (B, C, H, W) -> (B, *data_shape)."""
        self._check_image(x)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _forward(x).")

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """Vector-Jacobian product J(x)^H v, like `x`; `v` is like the data."""
        return self.pullback(x)[1](v)

    def pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The data H(x) and the map v -> J(x)^H v, from one forward pass."""
        if type(self).vjp is not Operator.vjp:
            return self(x), partial(self.vjp, x)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            y = self(leaf)

        def pull(v: Tensor) -> Tensor:
            self._check_data(v)
            return torch.autograd.grad(y, leaf, v.to(y.dtype), retain_graph=True)[0]

        return y.detach(), pull

    @property
    def linear(self) -> LinearOperator | None:
        """The Jacobian when it is the same for every image (H is affine), else None."""
        return None

    def __matmul__(self, other: Operator) -> Operator:
        """`(a @ b)(x) == a(b(x))`; linear when both are."""
        if not isinstance(other, Operator):
            return NotImplemented
        if isinstance(self, SVDOperator) and isinstance(other, Scaling):
            return _ScaledSVD(self, other)
        both = isinstance(self, LinearOperator) and isinstance(other, LinearOperator)
        return (_ComposedLinear if both else Composed)(self, other)

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
    """y = A x. A subclass writes `_forward`, and `_adjoint` where a closed form beats autograd."""

    def adjoint(self, y: Tensor) -> Tensor:
        """A^H y: (B, *data_shape) -> (B, C, H, W), with Re <y, A x> = Re <A^H y, x>."""
        self._check_data(y)
        return self._adjoint(y)

    def _adjoint(self, y: Tensor) -> Tensor:
        image = torch.zeros((len(y), *self.image_shape), dtype=real_dtype(y.dtype), device=y.device)
        with torch.enable_grad():
            output = self._forward(image.requires_grad_())
        return torch.autograd.grad(output, image, y.to(output.dtype))[0]

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x, like `x`. Override where the product is cheaper than its factors."""
        return self.adjoint(self(x))

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """A^H v, whatever `x`."""
        return self.adjoint(v)

    @property
    def linear(self) -> LinearOperator:
        """Itself."""
        return self

    def norm(self, iterations: int = 100, tolerance: float = 1e-4) -> float:
        """Largest singular value ||A||, by power iteration on A^H A from a fixed random image.

        The estimate never exceeds ||A||; it stops when its relative change is below `tolerance`.
        """
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((1, *self.image_shape), generator=generator).to(self.like)
        estimate = 0.0
        for _ in range(iterations):
            x = self.normal(x / norm(x).clamp_min(torch.finfo(x.dtype).tiny))
            previous, estimate = estimate, float(norm(x)) ** 0.5
            if abs(estimate - previous) <= tolerance * estimate:
                break
        return estimate


class SVDOperator(LinearOperator):
    """A = U diag(s) V^T, thin: one entry of s per stored vector; A gives 0 outside the span of V.

    A subclass sets `singular_values` (r,) and writes `Vt`, `V`, `Ut`, `U`; the rest follows.
    """

    singular_values: Tensor

    def Vt(self, x: Tensor) -> Tensor:
        """Coefficients of images on the right singular vectors: (B, C, H, W) -> (B, r)."""
        raise NotImplementedError(f"{type(self).__name__} must define Vt(x).")

    def V(self, c: Tensor) -> Tensor:
        """Images from coefficients: (B, r) -> (B, C, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} must define V(c).")

    def Ut(self, y: Tensor) -> Tensor:
        """Coefficients of data on the left singular vectors: (B, *data_shape) -> (B, r)."""
        raise NotImplementedError(f"{type(self).__name__} must define Ut(y).")

    def U(self, c: Tensor) -> Tensor:
        """Data from coefficients: (B, r) -> (B, *data_shape)."""
        raise NotImplementedError(f"{type(self).__name__} must define U(c).")

    def _forward(self, x: Tensor) -> Tensor:
        return self.U(self.singular_values * self.Vt(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.V(self.singular_values * self.Ut(y))

    def pinv(self, y: Tensor, tolerance: float = 1e-6) -> Tensor:
        """Pseudo-inverse V diag(1/s) U^T y; an s up to `tolerance` max(s) counts as zero."""
        self._check_data(y)
        s = self.singular_values
        keep = s > tolerance * s.max()
        return self.V(torch.where(keep, 1 / torch.where(keep, s, 1), 0) * self.Ut(y))

    def solve_normal(self, b: Tensor, damping: float | Tensor) -> Tensor:
        """(A^T A + damping I)^-1 b, exactly; `damping` > 0, a float or (B,)."""
        self._check_image(b)
        damping = torch.as_tensor(damping, dtype=b.dtype, device=b.device).reshape(-1, 1)
        s2 = self.singular_values**2
        # 1/(s^2 + d) on the span of V, 1/d elsewhere; their difference is -s^2 / (d (s^2 + d)).
        return (b - self.V(s2 / (s2 + damping) * self.Vt(b))) / per_sample(damping, b)

    def norm(self, iterations: int = 100, tolerance: float = 1e-4) -> float:
        """Largest singular value, exactly."""
        return float(self.singular_values.max())


class Scaling(LinearOperator):
    """y = scale x, on images of `image_shape`."""

    def __init__(self, scale: float, image_shape: tuple[int, ...]):
        self.scale, self.image_shape, self.data_shape = float(scale), image_shape, image_shape

    def _forward(self, x: Tensor) -> Tensor:
        return self.scale * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.scale * y


class Affine(Operator):
    """Model space to physical space: x_phys = (x_model + shift) scale; `to_model` is the inverse.

    `Affine(0.5, 1.0, (1, 64, 64))` maps [-1, 1] to [0, 1]. Raises ValueError when `scale` is 0.
    """

    def __init__(self, scale: float, shift: float, image_shape: tuple[int, ...]):
        if scale == 0:
            raise ValueError("Affine: scale 0 has no inverse; give e.g. Affine(0.5, 1.0, shape).")
        self.scale, self.shift = float(scale), float(shift)
        self.image_shape = self.data_shape = tuple(image_shape)

    def _forward(self, x: Tensor) -> Tensor:
        return (x + self.shift) * self.scale

    def to_physical(self, x: Tensor) -> Tensor:
        """(x + shift) scale, (B, C, H, W)."""
        return self(x)

    def to_model(self, x: Tensor) -> Tensor:
        """x / scale - shift, (B, C, H, W)."""
        self._check_image(x)
        return x / self.scale - self.shift

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """scale v."""
        return self.scale * v

    @property
    def linear(self) -> LinearOperator:
        """Multiplication by `scale`."""
        return Scaling(self.scale, self.image_shape)

    def __repr__(self) -> str:
        return f"Affine((x + {self.shift:g}) * {self.scale:g}, image {self.image_shape})"


class Composed(Operator):
    """(outer @ inner)(x) = outer(inner(x)); the chain rule gives its vector-Jacobian product."""

    def __init__(self, outer: Operator, inner: Operator):
        if inner.data_shape is not None and tuple(inner.data_shape) != tuple(outer.image_shape):
            raise ValueError(
                f"{outer!r} @ {inner!r}: the right one is applied first and gives "
                f"{tuple(inner.data_shape)}, the left one takes {tuple(outer.image_shape)}."
            )
        self.outer, self.inner = outer, inner
        self.image_shape, self.data_shape = inner.image_shape, outer.data_shape

    def _forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The data and the map v -> J_inner^H J_outer^H v."""
        middle, pull_inner = self.inner.pullback(x)
        y, pull_outer = self.outer.pullback(middle)
        return y, lambda v: pull_inner(pull_outer(v))

    @property
    def linear(self) -> LinearOperator | None:
        """The product of the two Jacobians when both are constant."""
        outer, inner = self.outer.linear, self.inner.linear
        if outer is None or inner is None:
            return None
        product = outer @ inner
        return product if isinstance(product, LinearOperator) else None

    def __repr__(self) -> str:
        return f"{self.outer!r} @ {self.inner!r}"


class _ComposedLinear(Composed, LinearOperator):
    outer: LinearOperator
    inner: LinearOperator
    vjp = LinearOperator.vjp
    linear = LinearOperator.linear

    def pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return self(x), self.adjoint

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


class _ScaledSVD(_ComposedLinear, SVDOperator):
    """A (scale x) has the SVD of A with scaled singular values; a negative sign goes into U."""

    outer: SVDOperator
    norm = SVDOperator.norm

    def __init__(self, outer: SVDOperator, inner: Scaling):
        super().__init__(outer, inner)
        self.sign = 1.0 if inner.scale > 0 else -1.0
        self.singular_values = abs(inner.scale) * outer.singular_values

    def Vt(self, x: Tensor) -> Tensor:
        return self.outer.Vt(x)

    def V(self, c: Tensor) -> Tensor:
        return self.outer.V(c)

    def Ut(self, y: Tensor) -> Tensor:
        return self.sign * self.outer.Ut(y)

    def U(self, c: Tensor) -> Tensor:
        return self.sign * self.outer.U(c)
