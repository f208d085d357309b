"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of measured data: $LMAPS_DATA, else ../shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LMAPS_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no measured data: {folder} does not exist (set LMAPS_DATA to their folder)")
    return folder
