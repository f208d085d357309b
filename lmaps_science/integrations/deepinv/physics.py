"""Our operators as DeepInverse's physics, and the other way."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lmaps_science.arrays import Movable, move, real_dtype
from lmaps_science.integrations.arrays import check_adjoint
from lmaps_science.io import DataError
from lmaps_science.operators import LinearOperator, Operator, SVDOperator
from lmaps_science.physics.linear_map import LinearMap

__all__ = ["Placed", "from_deepinv", "require_deepinv", "to_deepinv"]


def require_deepinv(owner: str) -> Any:
    """The package, which `owner` needs.

    Raises:
        ImportError: it is missing, with the extra to install.
    """
    try:
        import deepinv
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another PyTorch
        raise ImportError(
            f"{owner} needs DeepInverse: pip install 'lmaps-science[deepinv]', with a torchvision "
            f"built for this PyTorch, from the same index ({error})"
        ) from error
    return deepinv


# ---------------------------------------------------------------- ours, as a physics


def to_deepinv(operator: Operator, *, sigma: float | None = None) -> Any:
    """One of our operators as a DeepInverse physics, a `LinearPhysics` where it is linear.

    `A`, `A_adjoint` and `A_vjp` are ours, and all are differentiable, to train networks that
    contain them. `physics.to(device)` moves the operator. Complex data are two channels,
    (B, 2, *data_shape): real parts, imaginary parts.

    Args:
        operator: any.
        sigma: of Gaussian noise, sigma^2 = E |n|^2 of a datum; a channel of complex data then has
            sigma / sqrt(2). None: no noise.

    Raises:
        ImportError: DeepInverse is missing (extra `deepinv`).

    Example:
        physics = to_deepinv(MultiCoilMRI(maps, mask), sigma=0.01)
        y = physics(x)
    """
    physics = require_deepinv("to_deepinv").physics
    forward = _Forward(operator)
    noise = None
    if sigma is not None:
        noise = physics.GaussianNoise(sigma / math.sqrt(2) if forward.complex_data else sigma)
    if not isinstance(operator, LinearOperator):
        made = physics.Physics(A=forward, noise_model=noise)
        made.img_size = tuple(operator.image_shape)
        made.A_vjp = forward.vjp
        return made.to(operator.like.device)
    return physics.LinearPhysics(
        A=forward,
        A_adjoint=_Adjoint(forward),
        img_size=tuple(operator.image_shape),
        noise_model=noise or physics.ZeroNoise(),
        device=operator.like.device,
    )


class Placed(nn.Module):
    """A module with parts that are no modules: they follow to where PyTorch moves it."""

    _place: Tensor

    def __init__(self, place: Tensor):
        super().__init__()
        self.register_buffer("_place", place.new_empty(0), persistent=False)

    def _apply(self, fn: Callable, recurse: bool = True) -> Placed:
        super()._apply(fn, recurse)
        self._moved(self._place)
        return self

    def _moved(self, place: Tensor) -> None:
        """Move what PyTorch does not see to the device and the dtype of `place`."""
        raise NotImplementedError


class _Forward(Placed):
    def __init__(self, operator: Operator):
        super().__init__(operator.like)
        self.operator = operator
        probe = operator.like.new_zeros(operator.batch or 1, *operator.image_shape)
        with torch.no_grad():
            self.complex_data = operator(probe).is_complex()

    def _moved(self, place: Tensor) -> None:
        like = self.operator.like
        if (like.device, like.dtype) != (place.device, place.dtype):
            self.operator = self.operator.to(place.device, place.dtype)

    def forward(self, x: Tensor, **unused: Any) -> Tensor:
        operator = self.operator
        if isinstance(operator, LinearOperator):
            y = LinearMap.apply(x, operator, operator.adjoint)
        else:
            y = operator(x)
        return _channels(y) if self.complex_data else y

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """J(x)^T v, differentiable where x or v are."""
        if not (torch.is_grad_enabled() and (x.requires_grad or v.requires_grad)):
            return self.operator.vjp(x, _complex(v) if self.complex_data else v)
        at = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(self(at), at, v, create_graph=True)[0]


class _Adjoint(nn.Module):
    def __init__(self, transposed: _Forward):
        super().__init__()
        self.transposed = transposed

    def forward(self, y: Tensor, **unused: Any) -> Tensor:
        operator: Any = self.transposed.operator  # (linear: see `to_deepinv`)
        data = _complex(y) if self.transposed.complex_data else y
        return LinearMap.apply(data, operator.adjoint, operator)


def _channels(y: Tensor) -> Tensor:
    """Complex (B, ...) -> (B, 2, ...)."""
    return torch.stack([y.real, y.imag], 1)


def _complex(y: Tensor) -> Tensor:
    """(B, 2, ...) -> complex (B, ...)."""
    return torch.complex(y[:, 0], y[:, 1])


# ---------------------------------------------------------------- a physics, as ours


def from_deepinv(
    physics: Any,
    image_shape: Sequence[int] | None = None,
    *,
    batch: int | None = None,
    autograd_adjoint: bool = False,
) -> Operator:
    """A DeepInverse physics without its noise as one of our operators.

    It is a `LinearOperator` for a `LinearPhysics`, with singular vectors for a
    `DecomposablePhysics` of orthonormal factors and one mask for all images. A physics with
    parameters of its own for each image of a batch becomes an operator of that `batch`. The
    physics is not copied: later changes of its parameters change the operator.

    Args:
        physics: on real images (B, C, H, W), with one tensor as data.
        image_shape: (C, H, W); `physics.img_size` when None.
        batch: of the physics' parameters, where they refuse a single image.
        autograd_adjoint: the adjoint by automatic differentiation, for a physics whose `A_adjoint`
            is approximate.

    Raises:
        ImportError: DeepInverse is missing (extra `deepinv`).
        DataError: no image shape, other data than a tensor, or `A_adjoint` is not the adjoint of
            `A`, with both products of the dot test.

    Example:
        operator = from_deepinv(deepinv.physics.Blur(kernel), (3, 64, 64))
    """
    kinds = require_deepinv("from_deepinv").physics
    shape = _image_shape(physics, image_shape)
    if not isinstance(physics, kinds.LinearPhysics):
        return _FromPhysics(physics, shape, batch)
    operator = _FromLinearPhysics(physics, shape, batch)
    operator.autograd_adjoint = autograd_adjoint
    check_adjoint("from_deepinv", operator, operator.like)
    if isinstance(physics, kinds.DecomposablePhysics) and operator.batch is None:
        return _FromDecomposable.of(operator) or operator
    return operator


def _image_shape(physics: Any, given: Sequence[int] | None) -> tuple[int, int, int]:
    shape = getattr(physics, "img_size", None) if given is None else given
    sizes = tuple(int(n) for n in shape or ())[-3:]
    if len(sizes) != 3:
        raise DataError(
            f"from_deepinv: {type(physics).__name__} does not say what images it takes "
            f"(img_size {shape}). Give image_shape=(C, H, W), e.g. (1, 64, 64)."
        )
    return sizes


def _place(physics: nn.Module) -> Tensor:
    """An empty real tensor of its device and precision: that of its last parameter or buffer."""
    found = [
        tensor
        for name, tensor in [*physics.named_parameters(), *physics.named_buffers()]
        if (tensor.is_floating_point() or tensor.is_complex()) and not name.startswith("noise")
    ]
    tensor = found[-1] if found else torch.empty(0)
    return torch.empty(0, dtype=real_dtype(tensor.dtype), device=tensor.device)


class _FromPhysics(Operator):
    """See `from_deepinv`. `rows` are the items of the physics' batch to which images belong."""

    rows: Tensor | None = None

    def __init__(self, physics: Any, image_shape: tuple[int, ...], batch: int | None = None):
        self.physics, self.image_shape = physics, image_shape
        y = self._first_data(batch)
        if not isinstance(y, Tensor):
            raise DataError(
                f"from_deepinv: {type(physics).__name__} gives data as {type(y).__name__}, "
                "expected one tensor. Take the parts of a stack one by one, e.g. physics[0]."
            )
        self.data_shape, self.items = tuple(y.shape[1:]), len(y)
        self.batch = self.items if self.items > 1 else None

    def _first_data(self, batch: int | None) -> Any:
        """Of one image, or of the whole `batch` where the physics has parameters for so many."""
        errors = []
        for images in (1, *([batch] if batch else [])):
            try:
                return self._probe(images)
            except (RuntimeError, ValueError, AssertionError) as error:
                errors.append(error)
        raise DataError(
            f"from_deepinv: {type(self.physics).__name__} fails for images of {self.image_shape}: "
            f"{str(errors[-1]) or type(errors[-1]).__name__}. Give the shape that it takes, e.g. "
            "image_shape=(1, 64, 64), and batch=N where its parameters are for N images."
        ) from errors[-1]

    def _probe(self, batch: int) -> Any:
        """The data of random images."""
        generator = torch.Generator().manual_seed(0)
        images = torch.rand((batch, *self.image_shape), generator=generator).to(self.like)
        with torch.no_grad():
            return self.physics.A(images)

    def _forward(self, x: Tensor) -> Tensor:
        return self._by_item(self.physics.A, x)

    def _by_item(self, call: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        """`call`, which takes whole batches of the physics alone, on any of its items' values."""
        if self.rows is None:
            return call(values)
        results: dict[int, Tensor] = {}
        rows, left = self.rows.tolist(), list(range(len(self.rows)))
        while left:
            taken = {rows[k]: k for k in reversed(left)}  # of each item the first that is left
            whole = values.new_zeros(self.items, *values.shape[1:])
            found = call(whole.index_copy(0, *self._index(taken, values)))
            results.update({k: found[item] for item, k in taken.items()})
            left = [k for k in left if k not in results]
        return torch.stack([results[k] for k in range(len(rows))])

    @staticmethod
    def _index(taken: dict[int, int], values: Tensor) -> tuple[Tensor, Tensor]:
        items = torch.tensor(list(taken.keys()), device=values.device)
        return items, values[list(taken.values())]

    def _select(self, rows: Tensor) -> _FromPhysics:
        selected = copy.copy(self)
        selected.rows = rows if self.rows is None else self.rows[rows]
        selected.batch = len(rows)
        if self.rows is None and rows.tolist() == list(range(self.items)):
            selected.rows = None
        return selected

    @property
    def like(self) -> Tensor:
        """An empty real tensor of the physics' device and precision."""
        return _place(self.physics)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Any:
        """A copy with a moved copy of the physics."""
        moved = copy.copy(self)
        moved.__dict__.pop("physics")
        moved = Movable.to(moved, device, dtype)
        kind = device if isinstance(device, torch.dtype) else dtype
        where = None if isinstance(device, torch.dtype) else device
        # `clone` knows of random generators; `move` gives complex buffers their complex partner.
        moved.physics = self.physics.clone()._apply(lambda tensor: move(tensor, where, kind))
        return moved

    def __repr__(self) -> str:
        shapes = f"image {self.image_shape} -> data {self.data_shape}"
        return f"from_deepinv({type(self.physics).__name__}: {shapes})"


class _FromLinearPhysics(_FromPhysics, LinearOperator):
    autograd_adjoint = False
    _vjp = LinearOperator._vjp
    _pullback = LinearOperator._pullback
    linear = LinearOperator.linear

    def _adjoint(self, y: Tensor) -> Tensor:
        if self.autograd_adjoint:
            return LinearOperator._adjoint(self, y)
        x = self._by_item(self.physics.A_adjoint, y)
        return x.real.contiguous() if x.is_complex() else x


class _FromDecomposable(_FromLinearPhysics, SVDOperator):
    """A = U diag(s) V^T with the vectors of positive singular values."""

    norms = SVDOperator.norms
    kept: Tensor
    full_shape: tuple[int, ...]

    @classmethod
    def of(cls, operator: _FromLinearPhysics) -> _FromDecomposable | None:
        """The same with singular vectors, None where the physics' factors are not orthonormal."""
        found, physics = cls.__new__(cls), operator.physics
        vars(found).update(vars(operator))
        with torch.no_grad():
            full = physics.V_adjoint(operator.like.new_zeros(1, *operator.image_shape))
            if full.is_complex() or physics.mask.is_complex() or bool((physics.mask < 0).any()):
                return None
            values = physics.mask.to(full).expand(full.shape).flatten()
            found.full_shape, found.kept = tuple(full.shape[1:]), torch.nonzero(values)[:, 0]
            found.singular_values = values[found.kept]
            return found if found._is_orthonormal() else None

    def _is_orthonormal(self) -> bool:
        """V^T V = 1 and U^T U = 1, and both keep norms, for random coefficients."""
        generator = torch.Generator().manual_seed(1)
        c = torch.randn((2, len(self.kept)), generator=generator).to(self.singular_values)
        for there, back in ((self._V, self._Vt), (self._U, self._Ut)):
            image = there(c)
            if not torch.allclose(back(image), c, rtol=0, atol=1e-4):
                return False
            if not torch.allclose(image.norm(), c.norm(), rtol=1e-4):
                return False
        return True

    def _Vt(self, x: Tensor) -> Tensor:
        return self.physics.V_adjoint(x).flatten(1)[:, self.kept]

    def _V(self, c: Tensor) -> Tensor:
        return self.physics.V(self._full(c))

    def _Ut(self, y: Tensor) -> Tensor:
        return self.physics.U_adjoint(y).flatten(1)[:, self.kept]

    def _U(self, c: Tensor) -> Tensor:
        return self.physics.U(self._full(c))

    def _full(self, c: Tensor) -> Tensor:
        full = c.new_zeros(len(c), math.prod(self.full_shape))
        return full.index_copy(1, self.kept, c).reshape(len(c), *self.full_shape)
