"""Dilation and erosion of masks."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np

from segs_client.arrays import FloatArray
from segs_client.contract import invalid

Element: TypeAlias = Literal["disc", "square"]
Edges: TypeAlias = tuple[tuple[bool, bool], tuple[bool, bool]]


def dilated_mask(mask: FloatArray, px: int, element: Element) -> FloatArray:
    """The greatest value in the neighbourhood of each pixel of a mask [h, w]; 0 beyond it.

    Args:
        mask: float32, 0..1.
        px: radius of the neighbourhood.
        element: "disc", offsets with dx² + dy² ≤ px²; or "square", 2·px + 1 a side.
    """
    return _greatest(np.pad(mask, px), px, element)


def eroded_mask(mask: FloatArray, px: int, element: Element, at_edge: Edges) -> FloatArray:
    """The least value in the neighbourhood of each pixel of a mask [h, w].

    Args:
        mask: float32, 0..1.
        px: radius of the neighbourhood.
        element: see :func:`dilated_mask`.
        at_edge: whether the picture ends above, below; left, right: there the neighbourhood ends
            too. On the other sides the mask is 0 beyond its border.
    """
    negative = 0 - mask
    for axis, sides in enumerate(at_edge):
        for side, free in enumerate(sides):
            width = [(0, 0), (0, 0)]
            width[axis] = (0, px) if side else (px, 0)
            negative = np.pad(negative, width, constant_values=-1 if free else 0)
    return 0 - _greatest(negative, px, element)


def kernel_dilated_mask(mask: FloatArray, dilation: int) -> FloatArray:
    """A mask [h, w] dilated, or eroded if ``dilation`` is negative, by a square kernel.

    A pixel gets the greatest (least) value at the offsets −⌊d/2⌋ … d − 1 − ⌊d/2⌋ of both axes, d
    being ``abs(dilation)``: with an even d the mask becomes one pixel longer to the right and below
    than to the left and above. Beyond the array nothing counts.
    """
    side = abs(dilation)
    if side == 0:
        return mask
    reach = (side // 2, side - 1 - side // 2)
    if dilation > 0:
        return _in_square(np.pad(mask, (reach, reach)), side)
    return 0 - _in_square(np.pad(0 - mask, (reach, reach), constant_values=-1), side)


def _greatest(padded: FloatArray, px: int, element: Element) -> FloatArray:
    """The greatest value around each pixel except the outer ``px`` rows and columns."""
    if element == "square":
        return _in_square(padded, 2 * px + 1)
    if element != "disc":
        raise invalid("element", "unknown", value=element, allowed="'disc', 'square'")
    height, width = (side - 2 * px for side in padded.shape)
    out = padded[px : px + height, px : px + width].copy()
    rows = padded[:, px : px + width].copy()
    dy = px
    for dx in range(px + 1):  # rows: the greatest within dx to the left and right
        for left in (px - dx, px + dx):
            np.maximum(rows, padded[:, left : left + width], out=rows)
        while dy >= 0 and math.isqrt(px * px - dy * dy) == dx:
            for top in (px - dy, px + dy):
                np.maximum(out, rows[top : top + height], out=out)
            dy -= 1
    return out


def _in_square(values: FloatArray, side: int) -> FloatArray:
    """The greatest of each square of ``side`` pixels."""
    return _sliding(_sliding(values, side).T, side).T


def _sliding(values: FloatArray, length: int) -> FloatArray:
    """The greatest of each ``length`` consecutive rows, found in windows of doubling length."""
    reach = 1
    while reach < length:
        step = min(reach, length - reach)
        values = np.maximum(values[:-step], values[step:])
        reach += step
    return values
