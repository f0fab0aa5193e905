"""Boxes and sizes in pixels, and the crop region of a box.

Boxes are half-open x1, y1, x2, y2; sizes are height, width. A crop region has whole pixels (`Box`);
a segment's box may have fractions (`FloatBox`), as detectors find them, and may reach out of the
picture. What follows from a box is computed in float32 if an edge is a float, as in the reference,
and in Python's numbers if all are ints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from segs_client.contract import invalid

Box: TypeAlias = tuple[int, int, int, int]
FloatBox: TypeAlias = tuple[float, float, float, float]
Boxes: TypeAlias = Sequence[Sequence[float] | npt.NDArray[Any]] | npt.NDArray[Any]
"""Boxes that a caller gives: a list of four numbers each, or an array [N, 4]."""
Size: TypeAlias = tuple[int, int]

MAX_SIDE_PX = 1 << 20

_Number = TypeVar("_Number", int, float)


def crop_region(
    bbox: Sequence[float] | npt.NDArray[Any],
    size: Size,
    crop_factor: float = 3.0,
    crop_min_size: int | None = None,
) -> Box:
    """The region around a box that is cut out and redrawn.

    It has the box's centre and ``crop_factor`` times its sides, at least ``crop_min_size``. It is
    shifted into the picture, and cut only if it is larger than the picture.

    Args:
        bbox: x1, y1, x2, y2 in pixels, half-open; with fractions they count unrounded.
        size: height and width of the picture.
        crop_factor: at least 1.
        crop_min_size: least side, px.

    Example:
        >>> crop_region((40, 50, 80, 100), size=(192, 256), crop_factor=2.0)
        (20, 25, 100, 125)
        >>> crop_region((40.5, 50.25, 80.75, 100), size=(192, 256), crop_factor=2.0)
        (20, 25, 100, 124)
    """
    x1, y1, x2, y2 = edges_of(bbox)
    height, width = size
    number = arithmetic((x1, y1, x2, y2))
    left, right = _span(number(x1), number(x2), width, number(crop_factor), crop_min_size)
    top, bottom = _span(number(y1), number(y2), height, number(crop_factor), crop_min_size)
    return left, top, right, bottom


def area(box: tuple[_Number, _Number, _Number, _Number]) -> _Number:
    """Pixels inside a box."""
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1)


def arithmetic(box: FloatBox) -> Callable[[float], Any]:
    """The type to compute with: float32 if an edge is a float, else Python's float."""
    return float if all(isinstance(edge, int) for edge in box) else np.float32


def edges_of(box: Sequence[float] | npt.NDArray[Any]) -> list[Any]:
    """The values of a list, an array or a tensor, numpy's numbers as Python's.

    Raises:
        TypeError: it has no values.
    """
    values = box.tolist() if hasattr(box, "tolist") else box
    return [value.item() if hasattr(value, "item") else value for value in values]


def _span(low: Any, high: Any, limit: int, factor: Any, least: int | None) -> tuple[int, int]:
    """One axis of :func:`crop_region`; all numbers have the type of ``low``."""
    number = type(low)
    side = (high - low) * factor
    if least is not None:
        side = max(side, number(least))
    start = int(low + (high - low) / number(2) - side / number(2))
    end = number(start) + side
    if start < 0:
        return 0, int(min(side, limit))
    if end > limit:
        return max(int(number(limit) - side), 0), limit
    return start, int(end)


def outer_box(box: FloatBox) -> Box:
    """The pixels that a box touches: its edges rounded outwards."""
    x1, y1, x2, y2 = box
    return math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)


def check_overlap(box: FloatBox, size: Size, name: str) -> None:
    """Refuses a box without a pixel in the picture: a ContractError with ``name``."""
    height, width = size
    if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
        allowed = f"boxes that overlap the picture, {width} wide and {height} high"
        raise invalid(name, "outside the picture", value=list(box), allowed=allowed)


def window(box: FloatBox) -> tuple[slice, slice]:
    """The pixels that a box touches as slices of an array ``[H, W, …]``."""
    x1, y1, x2, y2 = outer_box(box)
    return slice(y1, y2), slice(x1, x2)


def checked_region(box: Sequence[float] | npt.NDArray[Any], name: str) -> Box:
    """A crop region with an area as four ints, or a ContractError with ``name``."""
    allowed = f"x1, y1, x2, y2: whole numbers 0 … {MAX_SIDE_PX} with x2 > x1 and y2 > y1"
    numbers = _numbers(box, name, allowed)
    if not all(0 <= number <= MAX_SIDE_PX and number == int(number) for number in numbers):
        raise invalid(name, "not a region of pixels", value=numbers, allowed=allowed)
    x1, y1, x2, y2 = (int(number) for number in numbers)
    if x2 <= x1 or y2 <= y1:
        raise invalid(name, "has no area", value=numbers, allowed=allowed)
    return x1, y1, x2, y2


def checked_box(box: Sequence[float] | npt.NDArray[Any], name: str) -> FloatBox:
    """A segment's box as Python's numbers, ints and floats as given, or a ContractError with
    ``name``. Its sides have a pixel at least; it may reach out of the picture."""
    allowed = (
        f"x1, y1, x2, y2: pixels -{MAX_SIDE_PX} … {MAX_SIDE_PX} with x2 > x1 and y2 > y1, sides of "
        "1 or more"
    )
    numbers = _numbers(box, name, allowed)
    if not all(abs(number) <= MAX_SIDE_PX for number in numbers):  # not NaN either
        raise invalid(name, "not a box", value=numbers, allowed=allowed)
    x1, y1, x2, y2 = numbers
    if x2 <= x1 or y2 <= y1:
        raise invalid(name, "has no area", value=numbers, allowed=allowed)
    if x2 - x1 < 1 or y2 - y1 < 1:
        raise invalid(name, "smaller than a pixel", value=numbers, allowed=allowed)
    return x1, y1, x2, y2


def _numbers(box: Any, name: str, allowed: str) -> list[float]:
    """Four numbers, integers of any type as ints and others as floats, or a ContractError."""
    try:
        values = edges_of(box)
    except (TypeError, ValueError):
        values = []
    if len(values) != 4 or not all(
        isinstance(value, Real) and not isinstance(value, bool) for value in values
    ):
        raise invalid(name, "not a box", value=values or box, allowed=allowed)
    return [int(value) if isinstance(value, Integral) else float(value) for value in values]


def agreed_size(own: Size, given: Size | None, whose: str) -> Size:
    """The size that SEGS bring along, which a given one must equal, or a ContractError.

    Args:
        own: checked.
        given: checked; None: not given.
        whose: of the own size, for the error.
    """
    if given is not None and given != own:
        allowed = f"{list(own)}, {whose}, or None"
        raise invalid("size", "differs", value=list(given), allowed=allowed)
    return own


def checked_size(size: Sequence[int]) -> Size:
    """Height and width as ints, or a ContractError."""
    try:
        height, width = (int(value) for value in size)
    except (TypeError, ValueError):
        height = width = 0
    if not (1 <= height <= MAX_SIDE_PX and 1 <= width <= MAX_SIDE_PX):
        allowed = f"height and width, 1 … {MAX_SIDE_PX}"
        raise invalid("size", "not a size", value=size, allowed=allowed)
    return height, width
