"""Throughput mode: crop regions grown a little, so that many SEGs are sampled at the same size.

Calls share a batch only where their latents have the same shape, and in the exact mode nearly
every SEG has a shape of its own. Here sampled sizes come from a table, and a crop region grows to
the size that the table's size stands for at the scale of the exact mode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from segs_client.boxes import Box, Size

STEP_PX = 64
"""Every side is a multiple of it: latents of multiples of 8, which no network has to pad."""

_LONGEST_PX = 16_384
"""The contract's most for max_size."""

SIDES_PX = tuple(
    sorted(
        {
            STEP_PX * digits << shift
            for digits in range(1, 8)
            for shift in range(9)
            if STEP_PX * digits << shift <= _LONGEST_PX
        }
    )
)
"""Multiples of 64 with at most three significant binary digits: 256, 320, 384, 448, 512, 640, …;
from 256 px on each is at most 1.25 times the one before."""

MAX_GROWTH = 1.6
"""Most pixels, relative to the exact mode; 1.25² and a little, what the table needs from 256 px."""

TOLERANCE = 0.02
"""How much less a SEG may be scaled up than in the exact mode, and the two axes unlike."""


@dataclass(frozen=True)
class Shape:
    """A crop region and the (height, width) that it is sampled at."""

    crop_region: Box
    size: Size


def common_shape(
    crop_region: Box, exact: Size, within: Box, max_size: float, max_pixels: int
) -> Shape:
    """The smallest size of the table that a SEG can be sampled at, and its crop region for it.

    The region contains the old one and keeps its centre where ``within`` allows; it is never
    sampled smaller than it is. Where no size fits (the picture is too small, or the region would
    grow too much), region and size are the exact mode's.

    Args:
        crop_region: x1, y1, x2, y2.
        exact: (height, width) that the exact mode samples it at.
        within: what the region may grow in: the picture, or the region itself to keep it.
        max_size: most that a side may be, px; cut to a multiple of 8 it is one more side of the
            table. Where ``exact`` exceeds it, as ``force_inpaint`` allows, sides may go up to the
            next side of the table.
        max_pixels: most that a SEG may be sampled at.

    Example:
        >>> common_shape((20, 25, 100, 125), (640, 512), (0, 0, 256, 192), 768, 2**22)
        Shape(crop_region=(20, 25, 100, 125), size=(640, 512))
        >>> common_shape((20, 25, 98, 125), (640, 499), (0, 0, 256, 192), 768, 2**22)
        Shape(crop_region=(19, 25, 99, 125), size=(640, 512))
    """
    width, height = _sides(crop_region)
    upscale = max(exact[0] / height, exact[1] / width)  # the exact sides are cut to whole pixels
    least = max(upscale * (1 - TOLERANCE), 1.0)
    most_pixels = min(MAX_GROWTH * exact[0] * exact[1], max_pixels)
    longest = int(max_size) // 8 * 8
    if max(exact) > max_size:
        longest = next(side for side in SIDES_PX if side >= max(exact))
    sides = [side for side in {*SIDES_PX, longest} if side <= longest]
    shapes = (
        Shape(_grown(crop_region, (rows, columns), within, upscale), (rows, columns))
        for rows in sides
        for columns in sides
        if rows >= height * least and columns >= width * least and rows * columns <= most_pixels
    )
    fitting = (shape for shape in shapes if _fits(shape, least))
    unchanged = Shape(crop_region, exact)
    return min(fitting, key=lambda shape: (math.prod(shape.size), shape.size), default=unchanged)


def _grown(region: Box, size: Size, within: Box, upscale: float) -> Box:
    """The region that ``size`` stands for: at ``upscale``, or more where there is less room."""
    rows, columns = size
    width, height = _sides(region)
    most_width, most_height = _sides(within)
    scale = max(upscale, columns / most_width, rows / most_height)
    scale = min(scale, columns / width, rows / height)
    left, right = _span(region[0], region[2], within[0], within[2], round(columns / scale))
    top, bottom = _span(region[1], region[3], within[1], within[3], round(rows / scale))
    return left, top, right, bottom


def _span(low: int, high: int, first: int, last: int, side: int) -> tuple[int, int]:
    """``low`` … ``high`` grown evenly to ``side``, shifted to stay in ``first`` … ``last``."""
    side = min(max(side, high - low), last - first)
    start = low - (side - (high - low)) // 2
    start = min(max(start, first), last - side)
    return start, start + side


def _fits(shape: Shape, least: float) -> bool:
    width, height = _sides(shape.crop_region)
    scales = shape.size[0] / height, shape.size[1] / width
    return min(scales) >= least and max(scales) <= min(scales) * (1 + TOLERANCE)


def _sides(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]
