"""Throughput mode: slightly larger crop regions, so that many SEGs are sampled at the same size.

Calls share a batch only if their latents have the same shape, and in the exact mode nearly every
SEG has its own shape. Here sampled sizes come from a table, and a crop region grows to the table's
size at the scale of the exact mode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from segs_client.boxes import Box, Size

STEP_PX = 64
"""Every side is a multiple of this: the latent's sides are multiples of 8, without padding."""

_LONGEST_PX = 16_384
"""The contract's maximum of max_size."""

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
"""Multiples of 64 with at most three significant binary digits: 256, 320, 384, 448, 512, 640, ….
From 256 px, each is at most 1.25 times the one before."""

MAX_GROWTH = 1.6
"""Most pixels relative to the exact mode: slightly over 1.25², which the table needs from
256 px."""

TOLERANCE = 0.02
"""Allowed relative loss of scale to the exact mode, and difference of scale of the two axes."""


@dataclass(frozen=True)
class Shape:
    """A crop region and its sampled (height, width)."""

    crop_region: Box
    size: Size


def common_shape(
    crop_region: Box, exact: Size, within: Box, max_size: float, max_pixels: int
) -> Shape:
    """The smallest size of the table that a SEG can be sampled at, and its crop region for it.

    The region contains the old one and keeps its centre if ``within`` allows; it is never sampled
    at less than its own size. If no size fits (the picture is too small, or the region would grow
    too much), region and size are those of the exact mode.

    Args:
        crop_region: x1, y1, x2, y2.
        exact: sampled (height, width) of the exact mode.
        within: where the region may grow: the picture, or the region itself to keep it.
        max_size: longest side in px; cut to a multiple of 8, it is a further side of the table. If
            ``exact`` exceeds it, as ``force_inpaint`` allows, sides up to the next side of the
            table are allowed.
        max_pixels: most sampled pixels of a SEG.

    Example:
        >>> common_shape((20, 25, 100, 125), (640, 512), (0, 0, 256, 192), 768, 2**22)
        Shape(crop_region=(20, 25, 100, 125), size=(640, 512))
        >>> common_shape((20, 25, 98, 125), (640, 499), (0, 0, 256, 192), 768, 2**22)
        Shape(crop_region=(19, 25, 99, 125), size=(640, 512))
    """
    width, height = _sides(crop_region)
    upscale = max(exact[0] / height, exact[1] / width)  # exact sides are rounded down
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
    """The region for ``size``: at ``upscale``, or at a larger scale if there is less room."""
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
