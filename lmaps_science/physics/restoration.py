"""Linear degradations of pictures: pixels that are lost, reduced size.

They act on every channel alike. Images have any range; the papers' cards state noise for [-1, 1].
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lmaps_science.operators import SVDOperator

__all__ = [
    "Inpainting",
    "Mask",
    "Separable",
    "pixel_mask",
    "reducing",
]

Mask = Literal["box", "random", "half", "expand", "grid"]
Shape = tuple[int, ...]


# ---------------------------------------------------------------- lost pixels


class Inpainting(SVDOperator):
    r"""The pixels of a mask; all others are 0, and carry no noise.

    .. math:: y = M x

    Its singular values are 1, one for each pixel that is kept in each channel.

    Args:
        mask: (H, W), true where a pixel is known; the same for all channels.
        image_shape: (C, H, W).

    Raises:
        ValueError: the mask has another shape, or hides everything.

    Example:
        >>> mask = pixel_mask("box", (16, 16))
        >>> Inpainting(mask, (3, 16, 16))(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(self, mask: ArrayLike | Tensor, image_shape: Shape):
        kept = torch.as_tensor(np.asarray(mask)).bool()
        if kept.shape != tuple(image_shape[1:]):
            raise ValueError(
                f"Inpainting: the mask has shape {tuple(kept.shape)}, expected that of the image, "
                f"{tuple(image_shape[1:])}: true where a pixel is known."
            )
        if not kept.any():
            raise ValueError(
                "Inpainting: the mask hides every pixel: there are no data. Keep some, e.g. "
                f"pixel_mask('random', {tuple(image_shape[1:])}, share=0.7), which hides 70 %."
            )
        self.image_shape = self.data_shape = tuple(image_shape)
        self.mask = kept
        self.places = torch.nonzero(kept.flatten())[:, 0]
        self.singular_values = torch.ones(self.image_shape[0] * int(kept.sum()))

    def _forward(self, x: Tensor) -> Tensor:
        return x * self.mask

    def _adjoint(self, y: Tensor) -> Tensor:
        return y * self.mask

    def _normal(self, x: Tensor) -> Tensor:
        return x * self.mask

    def _Vt(self, x: Tensor) -> Tensor:
        return gather(x, self.places)

    def _V(self, c: Tensor) -> Tensor:
        return scatter(c, self.places, self.image_shape)

    def _Ut(self, y: Tensor) -> Tensor:
        return self._Vt(y)

    def _U(self, c: Tensor) -> Tensor:
        return self._V(c)


def gather(x: Tensor, places: Tensor) -> Tensor:
    """The pixels at these places of each channel (B, C, H, W), in a row (B, C n)."""
    return x.flatten(2).index_select(2, places).flatten(1)


def scatter(c: Tensor, places: Tensor, shape: Shape) -> Tensor:
    """The reverse: (B, C n) into images (B, C, H, W) of zeros."""
    image = c.new_zeros(len(c), shape[0], math.prod(shape[1:]))
    rows = c.reshape(len(c), shape[0], -1)
    return image.index_copy(2, places, rows).reshape(-1, *shape)


def pixel_mask(
    kind: Mask, shape: tuple[int, int], share: float | None = None, seed: int = 0
) -> NDArray[np.bool_]:
    """Which pixels are known, (H, W), in the papers' experiments.

    Args:
        kind: "box" hides a centred box, "expand" all but one; "half" hides the right half;
            "random" hides pixels at random; "grid" keeps one pixel of 4 x 4 (super-resolution
            without averaging).
        shape: (H, W).
        share: of the side that the box has (default 0.5), or of the pixels that "random" hides
            (default 0.7).
        seed: of the random choice.

    Raises:
        ValueError: an unknown kind, or a share that hides all or nothing.

    Example:
        >>> pixel_mask("half", (2, 4))
        array([[ True,  True, False, False],
               [ True,  True, False, False]])
    """
    height, width = shape
    share = (0.7 if kind == "random" else 0.5) if share is None else share
    if not 0 < share < 1:
        raise ValueError(f"pixel_mask: share {share:g}, expected between 0 and 1, e.g. 0.5.")
    if kind == "random":
        hidden = np.random.default_rng([0xA5C, seed]).permutation(height * width)
        mask = np.ones(height * width, bool)
        mask[hidden[: round(share * height * width)]] = False
        return mask.reshape(shape)
    rows, columns = np.ogrid[:height, :width]
    if kind in ("box", "expand"):
        box = np.ones(shape, bool)
        for index, n in ((rows, height), (columns, width)):
            side = max(round(share * n), 1)
            box &= (index >= (n - side) // 2) & (index < (n - side) // 2 + side)
        return box if kind == "expand" else ~box
    if kind == "half":
        return np.broadcast_to(columns < (width + 1) // 2, shape).copy()
    if kind == "grid":
        return (rows % 4 == 0) & (columns % 4 == 0)
    raise ValueError(
        f"pixel_mask: kind {kind!r}, expected 'box', 'random', 'half', 'expand' or 'grid'."
    )


# ---------------------------------------------------------------- separable maps


class Separable(SVDOperator):
    r"""A map of the rows and one of the columns, with the SVD of their product.

    .. math:: y = R x C^T, \qquad R = U_R S_R V_R^T, \quad C = U_C S_C V_C^T

    The singular values of the product are the products of those of R and C. They are computed where
    a solver asks for them: of sides of thousands of pixels that takes a minute.

    Args:
        rows: R, (h, H).
        columns: C, (w, W).
        channels: of the image.
        smallest: singular values up to this share of the largest are set to 0, as DDRM's and
            VML-MAP's experiments do; what is left is no longer R and C themselves.
        dtype: of the operator; the decomposition is made in double precision.

    Example:
        >>> rows = reducing(16, 4, "bicubic")
        >>> Separable(rows, rows, channels=3)(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 3, 4, 4])
    """

    def __init__(
        self,
        rows: Tensor,
        columns: Tensor,
        channels: int,
        *,
        smallest: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        self.exact = tuple(m.double().numpy() for m in (rows, columns))  # keep their precision
        self.rows, self.columns = rows.to(dtype), columns.to(dtype)
        self.smallest = smallest
        self.image_shape = (channels, rows.shape[1], columns.shape[1])
        self.data_shape = (channels, rows.shape[0], columns.shape[0])

    def _moved_from(self, original: Separable) -> None:
        vars(self).pop("vectors", None)
        self.rows, self.columns = (torch.as_tensor(m).to(self.rows) for m in self.exact)

    @cached_property
    def vectors(self) -> dict[str, Tensor]:
        """The singular vectors of R and C, the values of their product, and which are not 0."""
        parts = [np.linalg.svd(m, full_matrices=False) for m in self.exact]
        (u_rows, s_rows, v_rows), (u_columns, s_columns, v_columns) = parts
        values = s_rows[:, None] * s_columns
        kept = values > max(self.smallest, 1e-12) * values.max()
        found = {
            "values": np.tile(values[kept], self.image_shape[0]),
            "u_rows": u_rows,
            "u_columns": u_columns,
            "v_rows": v_rows,
            "v_columns": v_columns,
        }
        places = torch.as_tensor(np.flatnonzero(kept), device=self.rows.device)
        return {k: torch.as_tensor(m).to(self.rows) for k, m in found.items()} | {"places": places}

    @property
    def singular_values(self) -> Tensor:  # type: ignore[override]
        """The products of those of R and C that are not 0, channel by channel, (r,)."""
        return self.vectors["values"]

    def _forward(self, x: Tensor) -> Tensor:
        return super()._forward(x) if self.smallest else self.rows @ x @ self.columns.T

    def _adjoint(self, y: Tensor) -> Tensor:
        return super()._adjoint(y) if self.smallest else self.rows.T @ y @ self.columns

    def _Vt(self, x: Tensor) -> Tensor:
        known = self.vectors
        return gather(known["v_rows"] @ x @ known["v_columns"].T, known["places"])

    def _V(self, c: Tensor) -> Tensor:
        return self.vectors["v_rows"].T @ self._grid(c) @ self.vectors["v_columns"]

    def _Ut(self, y: Tensor) -> Tensor:
        known = self.vectors
        return gather(known["u_rows"].T @ y @ known["u_columns"], known["places"])

    def _U(self, c: Tensor) -> Tensor:
        return self.vectors["u_rows"] @ self._grid(c) @ self.vectors["u_columns"].T

    def _grid(self, c: Tensor) -> Tensor:
        shape = (self.image_shape[0], *(min(m.shape) for m in self.exact))
        return scatter(c, self.vectors["places"], shape)


def reducing(size: int, factor: int, kind: Literal["average", "bicubic"]) -> Tensor:
    """The matrix (size / factor, size) that reduces a row of pixels, in double precision.

    "average" takes the mean of blocks; "bicubic" is Keys' kernel (a = -0.5), stretched by the
    factor against aliasing, as Pillow and MATLAB reduce pictures.

    Raises:
        ValueError: the factor does not divide the size.

    Example:
        >>> reducing(4, 2, "average")
        tensor([[0.5000, 0.5000, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.5000, 0.5000]], dtype=torch.float64)
    """
    if factor < 2 or size % factor:
        divisor = max(factor, 2)
        fitting = max(size - size % divisor, divisor)
        raise ValueError(
            f"reducing: a side of {size} pixels cannot be reduced by {factor}: the factor must be "
            f"2 or more and divide the size, e.g. {fitting} by {divisor}."
        )
    eye = torch.eye(size, dtype=torch.float64)[None]  # (1, W, n): each column a picture of one row
    if kind == "average":
        return F.avg_pool1d(eye, factor)[0].T
    shape = (1, size // factor)
    rows = F.interpolate(
        eye.transpose(0, 1)[:, :, None], size=shape, mode="bicubic", antialias=True
    )
    return rows[:, 0, 0].T.contiguous()
