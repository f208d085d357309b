"""Files in and out, one module per format; arrays keep their units and coordinates (xarray)."""

from lmaps_science.io.files import DataError, atomic_write, require_file, sha256
from lmaps_science.io.fresnel import calibrate_fresnel, read_fresnel
from lmaps_science.io.images import (
    make_image,
    pixel_size_rad,
    read_image,
    regrid_image,
    write_fits,
)
from lmaps_science.io.kspace import KSpaceFile, open_kspace, read_cfl, write_cfl
from lmaps_science.io.nifti import write_nifti
from lmaps_science.io.npy import read_npy
from lmaps_science.io.observation import make_observation
from lmaps_science.io.results import read_netcdf, write_netcdf
from lmaps_science.io.simulate import (
    array_names,
    image_visibilities,
    read_array,
    simulate_observation,
)
from lmaps_science.io.uvfits import read_uvfits, write_uvfits

__all__ = [
    "DataError",
    "KSpaceFile",
    "array_names",
    "atomic_write",
    "calibrate_fresnel",
    "image_visibilities",
    "make_image",
    "make_observation",
    "open_kspace",
    "pixel_size_rad",
    "read_array",
    "read_cfl",
    "read_fresnel",
    "read_image",
    "read_netcdf",
    "read_npy",
    "read_uvfits",
    "regrid_image",
    "require_file",
    "sha256",
    "simulate_observation",
    "write_cfl",
    "write_fits",
    "write_netcdf",
    "write_nifti",
    "write_uvfits",
]
