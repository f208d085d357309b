"""Multi-coil magnetic resonance imaging: k-space samples of a complex image, seen by several coils.

Images are real (B, 2, H, W): real and imaginary part. k-space is centred, the zero frequency of an
axis of n samples at n // 2, and orthonormal, so that the operator has norm 1 where the coil maps
have unit norm (sum_c |S_c|^2 = 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lmaps_science.arrays import as_channels, as_complex, real_dtype
from lmaps_science.operators import LinearOperator, Operator
from lmaps_science.physics.linear_map import LinearMap, finufft

__all__ = ["MultiCoilMRI", "NonCartesianMRI"]


class MultiCoilMRI(LinearOperator):
    """Cartesian k-space, (B, 2, H, W) -> complex (B, coils, H, W), zero where not sampled.

        y_c = M F (S_c x),    F[k, p] = exp(-2 pi i sum_d (k_d - c_d)(p_d - c_d) / n_d) / sqrt(HW)

    with c_d = n_d // 2. `maps` S are complex (coils, H, W), or (B, coils, H, W) with maps for each
    image of the batch; their dtype and device are the operator's. `mask` M holds 0 and 1: (H, W);
    whole lines as (1, W), which keeps columns, or (H, 1), which keeps rows; or (B, H, W), one for
    each image. Lines without any sample cost nothing in the second of the two 1-D transforms, and
    `normal` needs the first alone where the mask consists of whole lines.

    Raises ValueError for maps that are not complex, not finite or zero everywhere, for a mask that
    does not fit them, is empty or holds other values, and for a batch other than that of the maps
    and masks.

    Example:
        >>> from lmaps_science.physics.sampling import line_mask
        >>> maps = torch.ones(4, 32, 32, dtype=torch.complex64) / 2
        >>> operator = MultiCoilMRI(maps, line_mask((32, 32), acceleration=4))
        >>> operator(torch.rand(3, 2, 32, 32)).shape
        torch.Size([3, 4, 32, 32])
    """

    def __init__(self, maps: ArrayLike | Tensor, mask: ArrayLike | Tensor):
        self.maps = _checked_maps(type(self).__name__, maps)
        coils, height, width = self.maps.shape[-3:]
        self.image_shape, self.data_shape = (2, height, width), (coils, height, width)
        self.mask = _checked_mask(mask, self.maps)
        # A NumPy copy, which `to` leaves alone: what is sampled decides how to compute.
        self._sampled = self.mask.cpu().numpy()
        batches = {len(t) for t, ndim in ((self.maps, 4), (self.mask, 3)) if t.ndim == ndim}
        if len(batches) > 1:
            raise ValueError(
                f"MultiCoilMRI: maps for {len(self.maps)} images and masks for {len(self.mask)}; "
                "give as many of each, or one for all."
            )
        self.batch = batches.pop() if batches else None
        self._build()

    def _moved_from(self, original: MultiCoilMRI) -> None:
        self._build()

    def _select(self, rows: Tensor) -> MultiCoilMRI:
        maps = self.maps if self.maps.ndim == 3 else self.maps[rows]
        mask = self.mask if self.mask.ndim == 2 else self.mask[rows]
        return self._of(maps, mask)

    def _stacked(self, operators: Sequence[Operator], reason: str) -> Operator:
        found = [o for o in operators if isinstance(o, MultiCoilMRI)]
        if len({o.data_shape for o in found}) > 1:
            raise ValueError(f"scans of different sizes cannot share a batch: {reason}.")
        same = [all(torch.equal(getattr(found[0], n), getattr(o, n)) for o in found)
                for n in ("maps", "mask")]  # fmt: skip
        maps = self.maps if same[0] else torch.stack([o.maps for o in found])
        mask = self.mask if same[1] else torch.stack([o.mask for o in found])
        return self._of(maps, mask)

    def _of(self, maps: Tensor, mask: Tensor) -> MultiCoilMRI:
        other = MultiCoilMRI(maps, mask)
        other._meter = self._meter
        return other

    def _build(self) -> None:
        """Tables of the transforms, which go along one axis after the other.

        The first goes along the axis with the fewer sampled lines, made the last one (contiguous);
        the second along these lines alone. No shifts: F = post fft2(pre x), where `pre` moves the
        frequencies and `post`, which holds the mask, the pixels; the normal operator needs the
        absolute square of `post` alone, and no second transform where the lines are whole. A few
        lines of a length with a large prime factor, of which FFTs are slow (230 takes four times
        as long as 240), are a product with the matrix of their frequencies.
        """
        masks = self._sampled.reshape(-1, *self._sampled.shape[-2:])
        rows, columns = np.asarray(masks.any((0, 2))), np.asarray(masks.any((0, 1)))
        self._turned = bool(rows.mean() < columns.mean())
        height, width = self.maps.shape[-2:]
        pre, post = _centring(height, width, like=self.maps)
        post = self.mask * post / post.numel() ** 0.5
        self._pre, self._own_maps = self._turn(pre).contiguous(), self._turn(self.maps).contiguous()
        self._conjugate_maps = self._own_maps.conj().resolve_conj()
        kept = rows if self._turned else columns
        lines, post = np.flatnonzero(kept), self._turn(post).mT
        self._lines = self._waves = None
        if not kept.all():
            self._lines = torch.as_tensor(lines, device=self.maps.device)
            post = post.index_select(-2, self._lines)
            if len(lines) <= 64 and _slow(len(kept)):
                self._waves = _waves(lines, len(kept), pre)
        self._post = post.contiguous()
        turned = self._sampled.swapaxes(-2, -1) if self._turned else self._sampled
        whole = bool((turned == turned[..., :1, :]).all())
        weight = self._turn(self.mask)[..., :1, :].to(real_dtype(self.maps.dtype)) / len(kept)
        self._whole_lines = weight if whole else None

    def _turn(self, x: Tensor) -> Tensor:
        return x.mT if self._turned else x

    def _check_image(self, x: Tensor) -> None:
        super()._check_image(x)
        self._check_batch(x, "image")

    def _check_data(self, y: Tensor) -> None:
        super()._check_data(y)
        self._check_batch(y, "data")

    def _check_batch(self, x: Tensor, name: str) -> None:
        if self.batch not in (None, len(x)):
            raise ValueError(
                f"MultiCoilMRI: {name} of batch {len(x)} for maps or masks of batch {self.batch}; "
                "expected as many, or build the operator of one image, e.g. "
                "MultiCoilMRI(maps[0], mask[0])."
            )

    def _forward(self, x: Tensor) -> Tensor:
        return LinearMap.apply(x, self._sense, self._combine)

    def _adjoint(self, y: Tensor) -> Tensor:
        return LinearMap.apply(y, self._combine, self._sense)

    def _normal(self, x: Tensor) -> Tensor:
        """sum_c conj(S_c) F^-1 M F (S_c x)."""
        return LinearMap.apply(x, self._sense_and_combine, self._sense_and_combine)

    # Coil by coil: an image stays in the cache through all of its steps, which takes half the time
    # of passes over all coils.

    def _sense(self, x: Tensor) -> Tensor:
        image = self._own_image(x)
        y = _zeros((len(x), *self.maps.shape[-3:]), image)
        for c, maps in enumerate(self._own_maps.unbind(-3)):
            lines = torch.fft.fft(self._first(maps * image))
            data = self._turn(y[:, c]).mT
            if self._lines is None:
                torch.mul(lines, self._post, out=data)
            else:
                data.index_copy_(-2, self._lines, lines.mul_(self._post))
        return y

    def _combine(self, y: Tensor) -> Tensor:
        total = torch.zeros_like(self._pre).repeat(len(y), 1, 1)
        post = self._post.conj().resolve_conj()
        for c, maps in enumerate(self._conjugate_maps.unbind(-3)):
            data = self._turn(y[:, c]).mT
            lines = data if self._lines is None else data.index_select(-2, self._lines)
            lines = torch.fft.ifft(lines * post, norm="forward")
            total.addcmul_(self._second(lines), maps)
        return self._channels(total)

    def _sense_and_combine(self, x: Tensor) -> Tensor:
        image = self._own_image(x)
        total, weight = torch.zeros_like(image), self._whole_lines
        if weight is None:
            weight = self._post.abs().square()
        elif self._waves is not None:
            kept = weight[..., self._lines].mT  # not 1 / n alone: a line may be another image's
        for maps, conjugate in zip(
            self._own_maps.unbind(-3), self._conjugate_maps.unbind(-3), strict=True
        ):
            seen = maps * image
            if self._whole_lines is None:
                lines = torch.fft.fft(self._first(seen)).mul_(weight)
                seen = self._second(torch.fft.ifft(lines, norm="forward"))
            elif self._waves is None:
                spectrum = torch.fft.fft(seen).mul_(weight)
                seen = torch.fft.ifft(spectrum, norm="forward")
            else:
                seen = self._second(self._first(seen).mul_(kept))
            total.addcmul_(seen, conjugate)
        return self._channels(total)

    def _first(self, seen: Tensor) -> Tensor:
        """(B, m, n), transformed along n, and of it the lines to keep: (B, lines, m)."""
        if self._waves is not None:
            return self._waves @ seen.mT
        spectrum = torch.fft.fft(seen)
        kept = spectrum if self._lines is None else spectrum.index_select(-1, self._lines)
        return kept.mT.contiguous()

    def _second(self, lines: Tensor) -> Tensor:
        """The transpose of `_first`, with the inverse transform: (B, lines, m) -> (B, m, n)."""
        if self._waves is not None:
            return lines.mT @ self._waves.conj()
        if self._lines is None:
            return torch.fft.ifft(lines.mT.contiguous(), norm="forward")
        spectrum = lines.new_zeros((len(lines), *self._pre.shape))
        spectrum.index_copy_(-1, self._lines, lines.mT)
        return torch.fft.ifft(spectrum, norm="forward")

    def _own_image(self, x: Tensor) -> Tensor:
        return self._turn(as_complex(x)).contiguous() * self._pre

    def _channels(self, image: Tensor) -> Tensor:
        channels = as_channels(image * self._pre.conj())
        return self._turn(channels).contiguous()


class NonCartesianMRI(LinearOperator):
    """k-space along a trajectory, (B, 2, H, W) -> complex (B, coils, n), by finufft on the CPU.

        y_c[m] = sum_p exp(-2 pi i k_m (p - c)) S_c[p] x[p] / sqrt(HW)

    with c = (H // 2, W // 2). `maps` are complex (coils, H, W); `trajectory` (n, 2) holds (ky, kx)
    in cycles per pixel, -1/2 to 1/2. Needs the extra `nufft`. To 1e-6 in float32, 1e-12 in float64.

    Raises ValueError for maps as `MultiCoilMRI` does, and for another shape or unit of the
    trajectory.
    """

    def __init__(self, maps: ArrayLike | Tensor, trajectory: ArrayLike):
        owner = type(self).__name__
        self.maps = _checked_maps(owner, maps)
        # A NumPy array, which `to` leaves alone: the points stay in double precision.
        self.trajectory = np.array(trajectory, dtype=np.float64)
        if self.maps.ndim != 3 or self.trajectory.ndim != 2 or self.trajectory.shape[1] != 2:
            raise ValueError(
                f"{owner}: maps have shape {tuple(self.maps.shape)} and the trajectory "
                f"{self.trajectory.shape}; expected (coils, H, W) and (n, 2), of (ky, kx)."
            )
        if not np.abs(self.trajectory).max(initial=0) <= 0.5:
            raise ValueError(
                f"{owner}: the trajectory reaches {np.abs(self.trajectory).max():g}, expected "
                "cycles per pixel, from -0.5 to 0.5. Divide k in 1/m by the pixels per metre."
            )
        coils, height, width = self.maps.shape
        self.image_shape, self.data_shape = (2, height, width), (coils, len(self.trajectory))

    def _forward(self, x: Tensor) -> Tensor:
        return LinearMap.apply(x, self._sense, self._combine)

    def _adjoint(self, y: Tensor) -> Tensor:
        return LinearMap.apply(y, self._combine, self._sense)

    def _sense(self, x: Tensor) -> Tensor:
        seen = (self.maps * as_complex(x)[:, None]).flatten(0, 1)
        y = finufft("NonCartesianMRI").nufft2d2(
            *self._points(), seen.cpu().numpy(), isign=-1, **self._options()
        )
        return self._tensor(y, (len(x), *self.maps.shape[:1], -1))

    def _combine(self, y: Tensor) -> Tensor:
        values = y.to(self.maps.dtype).resolve_conj().flatten(0, 1).cpu().contiguous().numpy()
        size = tuple(self.maps.shape[1:])
        images = finufft("NonCartesianMRI").nufft2d1(
            *self._points(), values, size, isign=1, **self._options()
        )
        images = self._tensor(images, (len(y), *self.maps.shape))
        return as_channels((self.maps.conj() * images).sum(1))

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        ky, kx = np.ascontiguousarray(2 * np.pi * self.trajectory.T, dtype=self._real())
        return ky, kx

    def _options(self) -> dict[str, Any]:
        single = self._real() == np.float32
        return {"eps": 1e-6 if single else 1e-13, "nthreads": torch.get_num_threads()}

    def _real(self) -> type[np.floating]:
        return np.float32 if self.maps.dtype == torch.complex64 else np.float64

    def _tensor(self, values: np.ndarray, shape: tuple[int, ...]) -> Tensor:
        height, width = self.maps.shape[1:]
        return torch.as_tensor(values).to(self.maps).reshape(shape) / (height * width) ** 0.5


def _checked_maps(owner: str, maps: ArrayLike | Tensor) -> Tensor:
    s = torch.as_tensor(maps)
    if s.ndim not in (3, 4) or 0 in s.shape:
        raise ValueError(
            f"{owner}: maps have shape {tuple(s.shape)}, expected (coils, H, W) or "
            "(B, coils, H, W). For a single coil add its axis, e.g. maps[None]."
        )
    if not s.is_complex():
        raise ValueError(
            f"{owner}: maps have dtype {s.dtype}, expected a complex one: a coil map has a phase. "
            "For maps that are truly real: maps.astype('complex64')."
        )
    finite = torch.isfinite(torch.view_as_real(s.resolve_conj())).all()
    if not bool(finite) or not bool((s != 0).any()):
        what = "hold non-finite values" if not bool(finite) else "are zero everywhere"
        raise ValueError(
            f"{owner}: the coil maps {what}: their estimation failed. Estimate them with "
            "lmaps_science.physics.coils.estimate_maps, or give other maps."
        )
    return s.resolve_conj().contiguous()


def _checked_mask(mask: ArrayLike | Tensor, maps: Tensor) -> Tensor:
    m, (height, width) = torch.as_tensor(mask, device=maps.device), maps.shape[-2:]
    fits = m.ndim in (2, 3) and m.shape[-2] in (1, height) and m.shape[-1] in (1, width)
    if not fits or tuple(m.shape[-2:]) == (1, 1) != (height, width):
        raise ValueError(
            f"MultiCoilMRI: mask has shape {tuple(m.shape)}, expected ({height}, {width}), "
            f"(1, {width}) to keep columns, ({height}, 1) to keep rows, or a batch of these. A "
            "1-D mask of lines needs its axis, e.g. mask[None, :] or mask[:, None]."
        )
    if m.is_complex() or not bool(((m == 0) | (m == 1)).all()):
        raise ValueError(
            "MultiCoilMRI: the mask holds values other than 0 and 1; give e.g. mask > 0."
        )
    if not bool(m.any()):
        raise ValueError("MultiCoilMRI: the mask is empty: no sample was acquired.")
    return m.bool().expand(*m.shape[:-2], height, width).contiguous()


def _centring(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """(pre, post), each (H, W), with centred_fft2(x) = post fft2(pre x): for even and odd sizes.

    (k - c)(p - c) = k p - c p - c k + c^2, with c = n // 2.
    """
    pre, post = np.ones((1, 1), dtype=np.complex128), np.ones((1, 1), dtype=np.complex128)
    for n, shape in ((height, (-1, 1)), (width, (1, -1))):
        index, c = np.arange(n), n // 2
        pre = pre * np.exp(2j * np.pi * (c * index % n) / n).reshape(shape)
        post = post * np.exp(2j * np.pi * (c * (index - c) % n) / n).reshape(shape)
    return torch.as_tensor(pre).to(like), torch.as_tensor(post).to(like)


def _waves(lines: np.ndarray, n: int, like: Tensor) -> Tensor:
    """exp(-2 pi i k p / n) for the frequencies k of `lines` and p = 0 ... n - 1: (lines, n)."""
    turns = np.outer(lines, np.arange(n)) % n / n
    return torch.as_tensor(np.exp(-2j * np.pi * turns)).to(like)


def _slow(n: int) -> bool:
    """Whether n has a prime factor that FFT libraries have no fast kernel for."""
    for p in (2, 3, 5, 7, 11, 13):
        while n % p == 0:
            n //= p
    return n > 1


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros of the dtype and device of `like`.

    On the CPU in memory of NumPy, which asks for large pages: 50 MB take 6 ms instead of 21.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(shape, dtype=str(like.dtype).removeprefix("torch.")))
