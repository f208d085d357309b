"""The door to eht-imaging: imported when first needed, kept from printing and from the network."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np

__all__ = ["import_ehtim", "quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what eht-imaging prints and warns of; use the Earth-rotation tables on this disk."""
    from astropy.utils import iers

    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("iers_degraded_accuracy", "ignore"),
    ):
        warnings.simplefilter("ignore")
        yield


def import_ehtim() -> ModuleType:
    """Return the module `ehtim`.

    Raises:
        ImportError: it is missing (the message names the extra to install) or fails to import.
    """
    try:
        import matplotlib

        # On import eht-imaging sets matplotlib's fonts for the whole process: undo that.
        with quiet(), matplotlib.rc_context():
            import ehtim
            import ehtim.io.load
    except Exception as error:  # before 1.2.10 it stumbles over NumPy 2 with an AttributeError
        raise ImportError(
            "Reading and writing uvfits files needs eht-imaging, which cannot be imported "
            f"({type(error).__name__}: {error}). Install or renew it: "
            "pip install --upgrade 'lmaps-science[eht]'"
        ) from error
    return ehtim
