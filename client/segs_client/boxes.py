"""Boxes and sizes in pixels, and the crop region of a box.

Boxes are half-open x1, y1, x2, y2; sizes are height, width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from segs_client.contract import invalid

Box: TypeAlias = tuple[int, int, int, int]
Size: TypeAlias = tuple[int, int]

MAX_SIDE_PX = 1 << 20


def crop_region(
    bbox: Sequence[float], size: Size, crop_factor: float = 3.0, crop_min_size: int | None = None
) -> Box:
    """The region around a box that is cut out and redrawn.

    It has the box's centre and ``crop_factor`` times its sides, at least ``crop_min_size``. It is
    shifted into the picture, and cut only if it is larger than the picture.

    Args:
        bbox: x1, y1, x2, y2 in pixels, half-open.
        size: height and width of the picture.
        crop_factor: at least 1.
        crop_min_size: least side, px.

    Example:
        >>> crop_region((40, 50, 80, 100), size=(192, 256), crop_factor=2.0)
        (20, 25, 100, 125)
    """
    x1, y1, x2, y2 = bbox
    height, width = size
    left, right = _span(x1, x2, width, crop_factor, crop_min_size)
    top, bottom = _span(y1, y2, height, crop_factor, crop_min_size)
    return left, top, right, bottom


def area(box: Box) -> int:
    """Pixels inside a box."""
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1)


def _span(low: float, high: float, limit: int, factor: float, least: int | None) -> tuple[int, int]:
    side = (high - low) * factor
    if least is not None:
        side = max(side, least)
    start = int(low + (high - low) / 2 - side / 2)
    end = start + side
    if start < 0:
        return 0, int(min(side, limit))
    if end > limit:
        return max(int(limit - side), 0), limit
    return start, int(end)


def window(box: Box) -> tuple[slice, slice]:
    """The box as slices of an array ``[H, W, …]``."""
    return slice(box[1], box[3]), slice(box[0], box[2])


def checked_box(box: Sequence[int], name: str) -> Box:
    """A box with an area as four ints, or a ContractError with ``name``."""
    allowed = f"x1, y1, x2, y2: whole numbers 0 … {MAX_SIDE_PX} with x2 > x1 and y2 > y1"
    try:
        numbers = [float(value) for value in box]
    except (TypeError, ValueError):
        raise invalid(name, "not a box", value=box, allowed=allowed) from None
    whole = all(0 <= number <= MAX_SIDE_PX and number == int(number) for number in numbers)
    if len(numbers) != 4 or not whole:
        raise invalid(name, "not a box", value=numbers, allowed=allowed)
    x1, y1, x2, y2 = (int(number) for number in numbers)
    if x2 <= x1 or y2 <= y1:
        raise invalid(name, "has no area", value=[x1, y1, x2, y2], allowed=allowed)
    return x1, y1, x2, y2


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
