"""What a run gives: the samples, their history, their cost and where they come from."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from lmaps_science.io.results import write_netcdf

__all__ = ["Result"]


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
        seconds: wall time of the whole run, that before an interruption included.
        trajectory: (levels, n, C, H, W) estimates in model space, where asked for.
        facts: solver, seed, versions, and the facts of the problem.
        observations: how many; sample k of observation n is row `n * n_samples + k`.

    Example:
        >>> from lmaps_science import LMAPS, sample, toys
        >>> result = sample(toys.mixture().problem, LMAPS(levels=5), n_samples=3, progress=False)
        >>> result.samples.shape, result.misfit.shape, result.counts["denoiser_calls"]
        ((3, 1, 1, 2), (5, 3), 5)
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
    observations: int = 1

    def __len__(self) -> int:
        return len(self.samples)

    def split(self) -> list[Result]:
        """The results of a stack of observations, one by one."""
        if self.observations == 1:
            return [self]
        n = len(self) // self.observations
        each = self.facts.get("observations", [{}] * self.observations)
        common = {key: value for key, value in self.facts.items() if key != "observations"}
        parts = []
        for k in range(self.observations):
            rows = slice(k * n, (k + 1) * n)
            parts.append(
                replace(
                    self,
                    samples=self.samples[rows],
                    estimates=self.estimates[rows],
                    misfit=self.misfit[:, rows],
                    trajectory=None if self.trajectory is None else self.trajectory[:, rows],
                    facts={**common, **each[k]},
                    seconds=self.seconds / self.observations,
                    observations=1,
                )
            )
        return parts

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
            model = self.trajectory.shape[2:]
            if np.prod(model) == np.prod(shape):
                data["trajectory"] = image(self.trajectory, ("level", "sample"))
            else:  # latents
                axes = ("level", "sample", *(f"latent_{k}" for k in ("channel", "row", "column")))
                data["trajectory"] = (axes, self.trajectory)
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
        return f"<p>{html.escape(repr(self))}</p>{self.to_xarray()._repr_html_()}"
