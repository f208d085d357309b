"""Lists of numbers as the InverseBench benchmark writes them: "0-9", "0,3,5", "1-3,7"."""

from __future__ import annotations

import re
from typing import Any

from lmaps_science.io.files import DataError, shown

__all__ = ["parse_ids"]

_MOST = 10_000_000  # a slip of the keyboard, "0-99999999999", should not fill the memory


def parse_ids(ids: Any, name: str = "id_list") -> list[int] | None:
    """The numbers of a list such as "0-9,12" (both ends belong to it), in their order.

    Args:
        ids: a text, a whole number, a list of whole numbers, or None.
        name: of the setting, for the error.

    Returns:
        The numbers; None for None, which means all there are.

    Raises:
        DataError: neither of these.
    """
    if ids is None:
        return None
    numbers = [ids] if isinstance(ids, int) else ids
    if isinstance(numbers, list) and all(type(k) is int and k >= 0 for k in numbers):
        return list(numbers)
    found: list[int] = []
    parts = ids.replace(" ", "").split(",") if isinstance(ids, str) else [""]
    for part in parts:
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        if match is None:
            break
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or len(found) + last - first >= _MOST:
            break
        found.extend(range(first, last + 1))
    else:
        return found
    raise DataError(
        f"{name} is {shown(ids)}; expected numbers and ranges from 0 on, the smaller first, e.g. "
        '"0-9" or "0,3,5", or null for all.'
    )
