from .files import DataError, atomic_write, require_file, sha256
from .fresnel import calibrate_fresnel, read_fresnel
from .images import (
    make_image,
    pixel_size_rad,
    read_image,
    regrid_image,
    write_fits,
)
from .kspace import KSpaceFile, open_kspace, read_cfl, write_cfl
from .nifti import write_nifti
from .npy import read_npy
from .observation import make_observation
from .results import read_netcdf, write_netcdf
from .simulate import (
    array_names,
    image_visibilities,
    read_array,
    simulate_observation,
)
from .uvfits import read_uvfits, write_uvfits

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
