"""What the figures of all kinds of problems share."""

from __future__ import annotations

import io
import os

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmaps_science.io.files import atomic_write

POINTS = "#1f5f8b"
PATH = str | os.PathLike[str]


class Picture(Figure):
    """A figure that notebooks show by itself."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=90)
        return buffer.getvalue()


def history(axis: Axes, data: xr.Dataset, best: int) -> None:
    """The data misfit of every sample on its way from noise to image; sample `best` in colour."""
    sigma, misfit = data["sigma"].values, data["misfit"].values
    axis.loglog(sigma, misfit, color="0.75", lw=0.8)
    axis.loglog(sigma, misfit[:, best], color=POINTS, lw=1.6)
    axis.invert_xaxis()
    axis.grid(alpha=0.25)
    axis.tick_params(axis="y", which="both", labelsize=8)
    axis.set(xlabel="noise level σ")
    axis.set_title("data misfit −log p(y|x)", fontsize=10)


def finish(figure: Figure, path: PATH | None) -> Figure:
    """The figure, written to `path` where there is one, atomically; its suffix tells the format."""
    if path is not None:
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=150)
    return figure
