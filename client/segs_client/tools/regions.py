"""Boxes of masks, and moving of masks from one crop region to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from segs_client.arrays import FloatArray
from segs_client.boxes import Box, FloatBox, Size, crop_region, window
from segs_client.contract import invalid
from segs_client.segs import Seg
from segs_client.unit_floats import as_unit_floats

_Number = TypeVar("_Number", int, float)
_AnyBox = tuple[_Number, _Number, _Number, _Number]


def around(*boxes: _AnyBox[_Number]) -> _AnyBox[_Number]:
    """The smallest box around all boxes."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def whole(size: Size) -> Box:
    """The box of a whole picture."""
    return 0, 0, size[1], size[0]


def overlap(one: _AnyBox[_Number], other: _AnyBox[_Number]) -> _AnyBox[_Number] | None:
    """What is in both boxes; None if that has no area."""
    x1, y1 = max(one[0], other[0]), max(one[1], other[1])
    x2, y2 = min(one[2], other[2]), min(one[3], other[3])
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def grown(box: Box, px: int) -> Box:
    """The box with ``px`` more on every side; it may leave the picture."""
    return box[0] - px, box[1] - px, box[2] + px, box[3] + px


def mask_box(mask: npt.NDArray[Any], corner: tuple[int, int]) -> Box | None:
    """The box of the pixels that are not 0; None if there are none.

    Args:
        mask: [h, w].
        corner: x and y of the mask's first pixel.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    x, y = corner
    return x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1


def moved(mask: FloatArray, region: Box, to: Box) -> FloatArray:
    """A region's mask as the mask of another region, 0 outside the old one."""
    out = np.zeros((to[3] - to[1], to[2] - to[0]), np.float32)
    common = overlap(region, to)
    if common is not None:
        out[_window_in(common, to)] = mask[_window_in(common, region)]
    return out


def _window_in(box: Box, region: Box) -> tuple[slice, slice]:
    left, top = region[:2]
    return window((box[0] - left, box[1] - top, box[2] - left, box[3] - top))


def picture_mask(mask: npt.ArrayLike, size: Size, name: str = "mask") -> FloatArray:
    """A whole picture's mask as float32 [H, W], or a ContractError."""
    values = as_unit_floats(mask, name, 2)
    if values.shape != size:
        raise invalid(name, "wrong shape", value=list(values.shape), allowed=f"{list(size)}")
    return values


def seg_around(
    bbox: FloatBox,
    mask: npt.NDArray[Any],
    corner: tuple[int, int],
    size: Size,
    *,
    crop_factor: float,
    crop_min_size: int | None,
    label: str = "",
    confidence: float = 1.0,
) -> Seg:
    """A SEG with the crop region of a box, and a mask placed in the picture.

    Args:
        bbox: of the SEG.
        mask: [h, w], bool or float in 0..1.
        corner: x and y of the mask's first pixel.
        size: height and width of the picture.
    """
    region = crop_region(bbox, size, crop_factor, crop_min_size)
    lies_in = (corner[0], corner[1], corner[0] + mask.shape[1], corner[1] + mask.shape[0])
    inside = moved(mask.astype(np.float32), lies_in, region)
    return Seg(inside, bbox, region, confidence=confidence, label=label)


def one_each(name: str, values: Sequence[Any] | None, count: int, default: Any) -> Sequence[Any]:
    """``values``, or ``count`` times the default; ContractError if their number differs."""
    given = [default] * count if values is None else values
    if len(given) != count:
        raise invalid(name, f"{len(given)} given", allowed=f"{count}, one per object")
    return given
