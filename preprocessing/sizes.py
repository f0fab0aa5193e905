"""The size that a SEG is sampled at, or why it is skipped."""

from __future__ import annotations

from typing import Literal

from request_plan.limits import MIN_SAMPLED_SIDE_PX
from segs_client.boxes import arithmetic
from segs_client.contract import Box, DetailRequest, FloatBox

Skip = Literal["skipped_large_enough", "skipped_no_upscale", "skipped_too_small"]


def sampled_size(
    bbox: FloatBox, crop_region: Box, options: DetailRequest
) -> tuple[int, int] | Skip:
    """The (height, width) that a crop is resized to, or why it is skipped.

    The box (or the crop) is scaled to ``guide_size``; ``max_size`` limits the crop's longer side.
    With ``force_inpaint``, a SEG that would not grow is sampled at its own size. A box with
    fractions is not rounded, and the scale that it gives is a float32.
    """
    number = arithmetic(bbox) if options.guide_size_for else float
    x1, y1, x2, y2 = (arithmetic(bbox)(edge) for edge in bbox)
    box_sides = x2 - x1, y2 - y1
    width, height = crop_region[2] - crop_region[0], crop_region[3] - crop_region[1]
    if not options.force_inpaint and min(box_sides) >= options.guide_size:
        return "skipped_large_enough"
    guided = min(box_sides) if options.guide_size_for else min(width, height)
    upscale = number(options.guide_size) / number(guided)
    new_width, new_height = int(number(width) * upscale), int(number(height) * upscale)
    if max(new_width, new_height) > options.max_size:
        upscale *= number(options.max_size / max(new_width, new_height))
        new_width, new_height = int(number(width) * upscale), int(number(height) * upscale)
    if upscale <= 1 or min(new_width, new_height) == 0:
        if not options.force_inpaint:
            return "skipped_no_upscale"
        new_width, new_height = width, height
    if min(new_width, new_height) < MIN_SAMPLED_SIDE_PX:
        return "skipped_too_small"
    return new_height, new_width
