"""What the configuration of a network may say: types, ranges, the shape of its images.

A configuration comes from a file: it must neither divide by zero nor build for hours.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["LARGEST", "check_types", "checked_image_shape"]

LARGEST, _LONGEST = 65536, 32  # of whole numbers and sizes; of lists
_RANGES: dict[str, tuple[float, float]] = {
    "num_blocks": (1, 64),
    "channel_mult": (1e-3, 1024),
    "channel_mult_emb": (1, 1024),
    "channel_mult_noise": (1, 1024),
    "dropout": (0, 1),
    "resample_filter": (1e-6, 1e6),
    "skip_scale": (1e-6, 1e6),
    "sigma_data": (1e-6, 1e6),
    "beta_d": (1e-6, 1e6),
    "beta_min": (0, 1e6),
    "c1": (1e-9, 1),
    "c2": (0, 1e3),
}


def check_types(config: Mapping[str, Any], *owners: Callable[..., Any]) -> None:
    """Hold each option against the type of its default, and its range; ValueError names it."""
    for owner in owners:
        for name, parameter in inspect.signature(owner).parameters.items():
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or name not in config:
                continue
            value, default = config[name], parameter.default
            low, high = _RANGES.get(name, (0, LARGEST))
            if isinstance(default, tuple):
                good = isinstance(value, list | tuple) and len(value) <= _LONGEST
                good = good and all(_is_number(n) and low <= n <= high for n in value)
                good = good and (len(value) > 0 or name == "attn_resolutions")
                good = good and (name != "resample_filter" or len(value) % 2 == 0)
            elif isinstance(default, bool | str):
                good = isinstance(value, type(default))
            elif isinstance(default, float):
                good = _is_number(value) and low <= value <= high
            else:  # whole numbers; None where there is no default
                low = max(low, 1)
                good = type(value) is int and low <= value <= high
                good = good or (value is None and default is None)
            if not good:
                example = "a positive integer" if default is None else f"something like {default!r}"
                given = repr(value)
                given = given if len(given) <= 60 else f"{given[:57]}..."
                raise ValueError(
                    f"network config: {name} must be {example} (from {low:g} to {high:g}), got "
                    f"{given}."
                )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def checked_image_shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """The entry `image_shape`, [C, H, W]; ValueError where it is none."""
    shape = config.get("image_shape", ())
    whole = isinstance(shape, list | tuple) and len(shape) == 3
    if not whole or not all(type(n) is int and 0 < n <= LARGEST for n in shape):
        given = repr(shape)[:60]
        raise ValueError(
            f"network config: image_shape must be three positive integers [C, H, W] up to "
            f"{LARGEST}, got {given}; for example [1, 64, 64]."
        )
    return shape[0], shape[1], shape[2]
