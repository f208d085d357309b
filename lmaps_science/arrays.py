"""Arrays in, arrays out: checks, devices and dtypes, centred FFT, complex channels, products.

The first axis is the batch, and no function mixes its entries.
"""

from __future__ import annotations

import copy
from dataclasses import is_dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Movable",
    "as_channels",
    "as_complex",
    "centred_fft2",
    "check_finite",
    "check_images",
    "check_positive",
    "check_shape",
    "complex_dtype",
    "difference",
    "factor_to",
    "inner",
    "move",
    "norm",
    "per_sample",
    "real_dtype",
    "scaled",
]

Self = TypeVar("Self", bound="Movable")


# ---------------------------------------------------------------- checks


def check_shape(owner: str, name: str, x: Tensor, expected: tuple[int | str, ...]) -> None:
    """Raise unless `x` is a tensor of shape `expected`, where a letter stands for any size.

    `check_shape("FFT", "image", x, ("B", 1, 64, 64))` raises TypeError or ValueError naming `FFT`.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{owner}: {name} must be a torch.Tensor, got {type(x).__name__}. "
            "Convert it first, e.g. torch.as_tensor(array)."
        )
    matches = x.ndim == len(expected) and all(
        isinstance(want, str) or have == want for have, want in zip(x.shape, expected, strict=True)
    )
    if not matches:
        wanted = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
        hint = ""
        if x.ndim == len(expected) - 1 and expected[0] == "B":
            hint = " Add the batch axis, e.g. x[None]."
        raise ValueError(f"{owner}: {name} has shape {tuple(x.shape)}, expected ({wanted}).{hint}")


def check_images(
    owner: str, x: Tensor, image_shape: tuple[int, ...], *, real: bool = False
) -> None:
    """Raise unless `x` is a floating-point batch of images (B, *image_shape), if need be real."""
    check_shape(owner, "image", x, ("B", *image_shape))
    if not (x.is_floating_point() or (x.is_complex() and not real)):
        raise TypeError(
            f"{owner}: image has dtype {x.dtype}, expected a {'real ' if real else ''}"
            "floating-point one, e.g. x.float(); complex images enter as two channels."
        )


def check_finite(owner: str, name: str, x: Tensor) -> None:
    """ValueError when `x`, of any shape, holds a NaN or an infinity: how many, the first where."""
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        bad = torch.nonzero(~finite)
        raise ValueError(
            f"{owner}: {name} holds {len(bad)} non-finite value(s) of {x.numel()}, the first at "
            f"index {tuple(bad[0].tolist())}. Drop or repair them first, e.g. keep x[x.isfinite()]."
        )


def check_positive(owner: str, name: str, x: Tensor) -> None:
    """Raise ValueError unless every value of `x`, of any shape, is finite and > 0."""
    check_finite(owner, name, x)
    if not bool((x > 0).all()):
        raise ValueError(
            f"{owner}: {name} must be > 0, its smallest value is {float(x.min()):g}. "
            "A standard deviation of zero says the data are exact; give a small one, e.g. 1e-3."
        )


# ---------------------------------------------------------------- devices and dtypes


def complex_dtype(dtype: torch.dtype) -> torch.dtype:
    """The complex partner of a real dtype (float32 -> complex64); a complex dtype is its own."""
    return dtype if dtype.is_complex else dtype.to_complex()


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The real partner of a complex dtype (complex64 -> float32); a real dtype is its own."""
    return dtype.to_real() if dtype.is_complex else dtype


def move(
    value: Any,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Any:
    """Copy of `value` on `device` in real `dtype`; complex tensors take its complex partner.

    Walks tensors, modules, `Movable` objects, and lists, tuples and dicts of them. Integer and
    boolean tensors change device only. Everything else is returned as it is, and so is a module
    that is there: problems of one network share it.
    """
    if isinstance(value, Tensor):
        if dtype is None or not (value.is_floating_point() or value.is_complex()):
            return value.to(device=device)
        partner = complex_dtype(dtype) if value.is_complex() else dtype
        return value.to(device=device, dtype=partner)
    if isinstance(value, Movable):
        return value.to(device=device, dtype=dtype)
    if isinstance(value, torch.nn.Module):  # Module.to works in place: never on the caller's module
        state = [*value.parameters(), *value.buffers()]
        there = all(move(tensor, device, dtype) is tensor for tensor in state)
        return value if there else copy.deepcopy(value).to(device=device, dtype=dtype)
    if isinstance(value, dict):
        return {key: move(item, device, dtype) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(move(item, device, dtype) for item in value)
    return value


class Movable:
    """Base of objects that hold tensors: `.to(device, dtype)` gives a moved copy."""

    def to(
        self: Self,
        device: torch.device | str | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Copy with every tensor attribute moved; see `move`.

        A dtype alone may stand first, as in PyTorch: `problem.to(torch.float64)`.

        Raises:
            TypeError: `dtype` is not a real floating-point one, or was given twice.
        """
        if isinstance(device, torch.dtype):
            if dtype is not None:
                raise TypeError(
                    f"{type(self).__name__}.to: got two dtypes, {device} and {dtype}; the first "
                    'is the device\'s place, e.g. to("cpu", torch.float64).'
                )
            device, dtype = None, device
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(
                f"{type(self).__name__}.to: expected a real floating-point dtype, got {dtype}; "
                "complex tensors take its complex partner. Pass e.g. dtype=torch.float64."
            )
        moved = copy.copy(self)
        for name, value in vars(self).items():
            object.__setattr__(moved, name, move(value, device, dtype))  # works when frozen, too
        moved._moved_from(self)
        return moved

    def _moved_from(self: Self, original: Self) -> None:
        """Called on the moved copy: to make tables anew where rounding would lose digits."""


def difference(a: Any, b: Any, name: str) -> str | None:
    """Where two objects differ, in words that begin with `name`; None where they are the same.

    Walks tensors, arrays, modules, containers and the attributes of objects.
    """
    if a is b:
        return None
    if type(a) is not type(b):
        return f"{name} is {type(a).__name__} and {type(b).__name__}"
    if isinstance(a, (Tensor, np.ndarray)):
        if tuple(a.shape) != tuple(b.shape):
            return f"{name} has shapes {tuple(a.shape)} and {tuple(b.shape)}"
        if isinstance(a, Tensor):
            same = torch.equal(*(x.to_dense() if x.layout != torch.strided else x for x in (a, b)))
        else:
            same = np.array_equal(a, b)
        return None if same else f"{name} differs"
    if isinstance(a, torch.nn.Module):
        return difference(dict(a.state_dict()), dict(b.state_dict()), name)
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{name} has other entries"
        pairs = [(a[key], b[key], f"{name}.{key}") for key in a]
    elif isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return f"{name} has {len(a)} and {len(b)} entries"
        pairs = [(x, y, f"{name}[{k}]") for k, (x, y) in enumerate(zip(a, b, strict=True))]
    elif hasattr(a, "__dict__") and (type(a).__eq__ is object.__eq__ or is_dataclass(a)):
        # What was computed on the way, and may be again, makes no difference.
        kept = [k for k in vars(a) if not isinstance(getattr(type(a), k, None), cached_property)]
        pairs = [(vars(a).get(key), vars(b).get(key), f"{name}.{key}") for key in kept]
    else:
        return None if a == b else f"{name} is {a!r} and {b!r}"
    return next((found for pair in pairs if (found := difference(*pair)) is not None), None)


# ---------------------------------------------------------------- Fourier transform


def centred_fft2(x: Tensor) -> Tensor:
    """Centred orthonormal 2-D Fourier transform of the last two axes, for even and odd sizes.

    X[k] = 1/sqrt(HW) sum_p x[p] exp(-2 pi i k p / n), with p and k counted from pixel n // 2.
    """
    shifted = torch.fft.ifftshift(x, dim=(-2, -1))  # ifftshift moves pixel n // 2 to 0
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(-2, -1))


# ---------------------------------------------------------------- complex <-> channels, products


def as_complex(x: Tensor) -> Tensor:
    """Real (B, 2, H, W) (real part, imaginary part) -> complex (B, H, W)."""
    return torch.complex(x[:, 0], x[:, 1])


def as_channels(image: Tensor) -> Tensor:
    """Complex (B, H, W) -> real (B, 2, H, W): real part, imaginary part."""
    return torch.stack([image.real, image.imag], dim=1)


def factor_to(length: float | Tensor, x: Tensor) -> Tensor:
    """Factors (B,) that bring each sample of `x` (B, ...) to a Euclidean length; 0 where x is 0.

    (There the quotient of a length and the smallest number may overflow, and 0 times it is NaN.)
    """
    size = norm(x)
    return torch.where(size == 0, 0, length / size.clamp_min(torch.finfo(size.dtype).tiny))


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ..., 1) so that it broadcasts against `like` (B, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def scaled(weight: float | Tensor, x: Tensor) -> Tensor:
    """`weight x`, where the weight is one number, or one for each sample, (B,)."""
    if isinstance(weight, Tensor) and weight.ndim:
        weight = per_sample(weight, x)
    return weight * x


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample, <a, b> = sum conj(a) b: (B, ...), (B, ...) -> (B,)."""
    return (a.conj() * b).flatten(1).sum(1)


def norm(a: Tensor) -> Tensor:
    """Euclidean norm of each sample: (B, ...) -> (B,), real."""
    return torch.linalg.vector_norm(a.flatten(1), dim=1)
