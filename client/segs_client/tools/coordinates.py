"""Checks of boxes' and polygons' coordinates: pixels, and of this picture."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from segs_client.boxes import Size
from segs_client.contract import invalid


def check_pixels(coordinates: npt.NDArray[Any], name: str) -> None:
    """Refuses coordinates that are parts of a picture's sides: a ContractError with ``name``.

    Args:
        coordinates: [N, 4] of boxes or [N, 2] of vertices, all that were given in one call.
    """
    is_float = coordinates.dtype.kind == "f"  # of ints there may be a box of the first pixel
    if is_float and coordinates.size and coordinates.min() >= 0 and 0 < coordinates.max() <= 1:
        allowed = "pixels: x by the picture's width, y by its height"
        raise invalid(name, "all in 0..1", value=coordinates[0].tolist(), allowed=allowed)


def check_vertices(rings: list[npt.NDArray[Any]], name: str) -> None:
    """:func:`check_pixels` of the vertices of all polygons; rings are [n, 2]."""
    if rings:
        check_pixels(np.concatenate(rings), name)


def warn_of_outside(count: int, total: int, problem: str, size: Size) -> None:
    """Warns of objects that are left out as nothing of them is in the picture.

    Args:
        count: how many; of 0 there is no warning.
        total: of how many.
        problem: what they are and lack, such as "boxes are outside".
        size: height and width of the picture.
    """
    if count:
        text = (
            f"{count} of {total} {problem} the picture, {size[1]} wide and {size[0]} high, and are "
            "left out; a size is (height, width), PIL's is (width, height)"
        )
        warnings.warn(text, UserWarning, stacklevel=3)


def warn_of_no_area(count: int, total: int) -> None:
    """Warns of boxes that are left out as their width or height is 0 or less."""
    if count:
        text = f"{count} of {total} boxes have a width or height of 0 or less, and are left out"
        warnings.warn(text, UserWarning, stacklevel=3)
