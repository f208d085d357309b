r"""Singular value decomposition of the Born approximation, economy size, kept on disk.

Row (t, j) of A is, up to a unitary map of the data, the real and the imaginary part of
T_t[j] w_t(p): T_t are the receivers' functions of transmitter t, reduced to their rank. With these
rows stacked as Z (n, N^2), a pivoted Cholesky factorisation Z Z^T = L L^T finds the rank r and r
rows that span the others; then with L^T L = Y diag(s^2) Y^T

    A = U diag(s) V^T,    V = Z_p^T L_p^-T Y    (index p: the r chosen rows)

U is not stored: U c = A V (c / s) and U^T y = V^T A^T y / s, which is faster than its product.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.linalg import blas, lapack
from torch import Tensor

from lmaps_science.io.files import atomic_write, make_folder
from lmaps_science.operators import SVDOperator
from lmaps_science.physics.scattering import BornScattering

__all__ = ["BornSVD"]

_VERSION = 3  # of the cached files; a change of the computation makes them obsolete


class BornSVD(SVDOperator):
    """`BornScattering` with its singular vectors, for exact solves and pseudo-inverses.

    Singular values below `tolerance` times the largest are left out; forward and adjoint remain
    those of `operator`, exact and fast, so they differ from U diag(s) V^T by up to that much.

    The first time, the decomposition is computed in double precision: for the benchmark's 20 x 360
    data and 128 x 128 pixels it needs 3.5 GB and 140 s of one core's time. V takes 4 N^2 r bytes in
    single precision (0.34 GB, r = 5189), in memory and on disk. A file in `cache` is used again
    only where every parameter is the same; the default folder is that of the operating system for
    caches, None writes nothing.

    Raises ValueError for a `tolerance` outside [1e-5, 1), which double precision cannot resolve.

    Example:
        >>> from lmaps_science.physics.scattering_geometry import ScatteringGeometry
        >>> angles = range(0, 360, 20)
        >>> geometry = ScatteringGeometry(16, 0.1, 0.05, [0, 120, 240], angles, 1.0, 1.0)
        >>> BornSVD(BornScattering(geometry), cache=None).singular_values.shape
        torch.Size([91])
    """

    def __init__(
        self,
        operator: BornScattering,
        tolerance: float = 1e-3,
        cache: str | os.PathLike[str] | None = "default",
    ):
        if not 1e-5 <= tolerance < 1:
            raise ValueError(f"BornSVD: tolerance {tolerance}, expected one in [1e-5, 1).")
        self.operator, self.tolerance = operator, tolerance
        self.image_shape, self.data_shape = operator.image_shape, operator.data_shape
        file = None if cache is None else cache_file(operator, tolerance, cache)
        if file is not None and file.exists():
            parts = load_file(file)
        else:
            singular_values, right = decompose(operator, tolerance)
            parts = {"singular_values": singular_values, "right": right}
            if file is not None:
                make_folder(file.parent)
                with atomic_write(file) as temporary:
                    save_file(parts, temporary)
        self.singular_values = parts["singular_values"].to(operator.like)
        self.right = parts["right"].to(operator.like)  # (r, N^2)

    def _Vt(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.right.T

    def _V(self, c: Tensor) -> Tensor:
        return (c @ self.right).reshape(-1, *self.image_shape)

    def _Ut(self, y: Tensor) -> Tensor:
        return self._Vt(self.operator.adjoint(y)) / self.singular_values

    def _U(self, c: Tensor) -> Tensor:
        return self.operator(self._V(c / self.singular_values))

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator.adjoint(y)


def cache_file(
    operator: BornScattering, tolerance: float, cache: str | os.PathLike[str] = "default"
) -> Path:
    """The file for this decomposition: its name is a digest of all that it depends on."""
    if cache == "default":
        import pooch

        cache = pooch.os_cache("lmaps-science")
    geometry = operator.geometry
    digest = hashlib.sha256()
    numbers = (geometry.npix, geometry.side, geometry.wavelength)
    radii = (geometry.transmitter_radius, geometry.receiver_radius)
    options = (operator.conjugate_incident, operator.tolerance, tolerance, operator.like.dtype)
    digest.update(repr((_VERSION, numbers, radii, options, geometry.data_shape)).encode())
    for array in (geometry.transmitter_angles, geometry.receiver_angles, geometry.mask):
        digest.update(np.ascontiguousarray(array).tobytes())
    return Path(cache) / f"born_svd_{digest.hexdigest()[:32]}.safetensors"


def decompose(operator: BornScattering, tolerance: float) -> tuple[Tensor, Tensor]:
    """Singular values (r,), decreasing, float64, and right singular vectors (r, N^2)."""
    rows = _reduced_rows(operator.to("cpu", torch.float64), 0.02 * tolerance)
    gram = rows.new_zeros(len(rows), len(rows))
    for start in range(0, len(rows), 512):  # the lower triangle alone
        block = slice(start, start + 512)
        gram[start:, block] = rows[start:] @ rows[block].T
    # What is left out shifts s^2 by its sum: small beside the smallest s^2 that is kept. (The
    # largest diagonal element is a lower bound of the largest s^2.)
    stop = 1e-2 * tolerance**2 * float(gram.diagonal().max())
    # LAPACK counts columns first: there, the transpose is in place, and an upper triangle.
    factor, order, rank, _ = lapack.dpstrf(gram.numpy().T, tol=stop, lower=0, overwrite_a=1)
    upper = np.triu(factor)[:rank]  # L^T
    chosen = rows[torch.as_tensor(order[:rank] - 1, dtype=torch.int64)]
    del rows, gram, factor
    values, vectors = torch.linalg.eigh(torch.as_tensor(blas.dsyrk(1.0, upper)), UPLO="U")
    keep = torch.nonzero(values > tolerance**2 * values[-1]).flatten().flip(0)
    # In double precision: the rows differ by as much as the singular values. What comes out is
    # orthonormal, and no longer needs it.
    lower = torch.as_tensor(upper[:, :rank]).T
    orthonormal = torch.linalg.solve_triangular(lower, chosen, upper=False)
    dtype = operator.like.dtype
    return values[keep].sqrt(), vectors[:, keep].T.to(dtype) @ orthonormal.to(dtype)


def _reduced_rows(operator: BornScattering, tolerance: float) -> Tensor:
    """Z (n, N^2): A's rows up to a unitary map of each transmitter's data.

    Receivers' functions of norm below `tolerance` times the largest are left out.
    """
    receivers = operator.receivers
    unit = torch.eye(receivers.rank, dtype=torch.float64)
    basis, triangle = torch.linalg.qr(receivers.join(receivers.sums(unit)).T)
    expansion = receivers.expansion.T @ triangle.T.to(receivers.expansion)
    fields = torch.complex(*receivers.join(operator.incident.unbind()).chunk(2))
    known: dict[bytes, Tensor] = {}  # transmitters with the same receivers share their functions
    rows = []
    for mask, field in zip(receivers.mask, fields, strict=True):
        key = mask.numpy().tobytes()
        if key not in known:
            _, values, vectors = torch.linalg.svd(expansion[mask], full_matrices=False)
            keep = values > tolerance * values[:1]
            known[key] = (values[keep, None] * vectors[keep]) @ basis.T.to(vectors)
        products = known[key] * field
        rows += [products.real, products.imag]
    return torch.cat(rows)
