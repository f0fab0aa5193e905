"""Changes of SEGS' masks: growing, shrinking, blurring, combining with another mask.

Boxes are not changed, so that the scale at which a SEG is redrawn stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from segs_client.arrays import ByteArray, FloatArray, from_bytes, to_pixels
from segs_client.blur import BLUR_SIGMA, blur
from segs_client.boxes import window
from segs_client.contract import invalid
from segs_client.conversions import as_array
from segs_client.errors import contract_checked
from segs_client.segs import Seg, Segs, box_mask
from segs_client.tools.morphology import (
    Element,
    dilated_mask,
    eroded_mask,
    kernel_dilated_mask,
)
from segs_client.tools.regions import around, grown, mask_box, moved, overlap, picture_mask, whole
from segs_client.unit_floats import as_unit_floats


@contract_checked()
def dilated(segs: Segs, px: int, *, element: Element = "disc") -> Segs:
    """The SEGS with larger masks: each pixel gets the greatest value in its neighbourhood.

    If a mask would leave its crop region, the region grows within the picture; the SEG then loses
    its own crop, which no longer fits.

    Args:
        segs: to change.
        px: radius of the neighbourhood.
        element: its shape: "disc", offsets with dx² + dy² ≤ px²; or "square", 2·px + 1 a side.

    Raises:
        InvalidRequest: a negative radius or an unknown element.

    Example:
        >>> segs = Segs.from_boxes([(4, 4, 6, 6)], (10, 10), crop_factor=1)
        >>> seg = dilated(segs, 1)[0]
        >>> seg.crop_region, seg.mask[0]
        ((3, 3, 7, 7), array([0., 1., 1., 0.], dtype=float32))
    """
    _check_radius(px)
    items = []
    for seg in segs:
        box = mask_box(seg.mask, seg.crop_region[:2])
        inside = overlap(grown(box, px), whole(segs.size)) if box is not None else None
        region = around(seg.crop_region, inside) if inside is not None else seg.crop_region
        mask = dilated_mask(moved(seg.mask, seg.crop_region, region), px, element)
        image = seg.image if region == seg.crop_region else None
        items.append(replace(seg, mask=mask, crop_region=region, image=image))
    return Segs(segs.size, tuple(items))


@contract_checked()
def eroded(segs: Segs, px: int, *, element: Element = "disc") -> Segs:
    """The SEGS with smaller masks: each pixel gets the least value in its neighbourhood.

    Outside its crop region a mask is 0. At the picture's edge the neighbourhood ends, so that a
    mask that touches the edge still touches it.

    Args: as of :func:`dilated`.

    Raises:
        InvalidRequest: a negative radius or an unknown element.

    Example:
        >>> segs = Segs.from_boxes([(4, 4, 8, 8)], (12, 12), crop_factor=1)
        >>> int(eroded(segs, 1)[0].mask.sum())
        4
    """
    _check_radius(px)

    def change(seg: Seg) -> FloatArray:
        x1, y1, x2, y2 = seg.crop_region
        height, width = segs.size
        at_edge = ((y1 <= 0, y2 >= height), (x1 <= 0, x2 >= width))
        return eroded_mask(seg.mask, px, element, at_edge)

    return _changed(segs, change)


def dilated_in_crop(segs: Segs, dilation: int) -> Segs:
    """The SEGS with masks dilated as the ``dilation`` of ComfyUI's nodes does it.

    The neighbourhood is a square of ``dilation`` pixels a side; with an even side the mask becomes
    one pixel longer to the right and below. Crop regions stay, so that a mask ends at its region's
    edge, and so do the SEGS' own crops. :func:`dilated` goes by a radius and enlarges the region.

    Args:
        segs: to change.
        dilation: side of the square in pixels; negative: each pixel gets the least value of such a
            square, in which nothing counts beyond the region; 0: no change.

    Example:
        >>> segs = Segs.from_boxes([(4, 4, 6, 6)], (10, 10), crop_factor=2)
        >>> dilated_in_crop(segs, 2)[0].mask[1]
        array([0., 1., 1., 1.], dtype=float32)
        >>> int(dilated_in_crop(segs, -2)[0].mask.sum())
        1
    """
    return _changed(segs, lambda seg: kernel_dilated_mask(seg.mask, dilation))


@contract_checked()
def blurred(segs: Segs, px: int, sigma: float = BLUR_SIGMA) -> Segs:
    """The SEGS with soft masks: by default the blur of the detailer's noise mask and of pasting.

    A Gaussian inside the crop region; see :func:`segs_client.blur.blur`.

    Args:
        segs: to change.
        px: radius of the kernel.
        sigma: σ in pixels.

    Raises:
        InvalidRequest: a negative radius, or no positive ``sigma``.

    Example:
        >>> segs = Segs.from_boxes([(8, 8, 16, 16)], (24, 24))
        >>> blurred(segs, 2)[0].mask[12, 6:10].round(1)
        array([0.2, 0.4, 0.6, 0.8], dtype=float32)
    """
    _check_radius(px)
    if not 0 < sigma < np.inf:
        raise invalid("sigma", "not a width", value=sigma, allowed="above 0 px")
    return _changed(segs, lambda seg: np.clip(blur(seg.mask, px, sigma), 0, 1))


def box_filled(segs: Segs) -> Segs:
    """The SEGS with their filled boxes as masks.

    Example:
        >>> segs = Segs((9, 9), (Seg(np.zeros((9, 9)), (0, 0, 5, 5), (0, 0, 9, 9)),))
        >>> int(box_filled(segs)[0].mask.sum())
        25
    """
    return _changed(segs, lambda seg: box_mask(seg.bbox, seg.crop_region))


def thresholded(segs: Segs, level: float = 0.5) -> Segs:
    """The SEGS with hard masks: 1 where the mask is at least ``level``, else 0.

    Example:
        >>> segs = Segs((1, 3), (Seg([[0.2, 0.5, 0.8]], (0, 0, 3, 1), (0, 0, 3, 1)),))
        >>> thresholded(segs)[0].mask
        array([[0., 1., 1.]], dtype=float32)
    """
    return _changed(segs, lambda seg: (seg.mask >= level).astype(np.float32))


@contract_checked()
def intersected(segs: Segs, mask: npt.ArrayLike) -> Segs:
    """The SEGS with their masks AND a whole picture's mask.

    As in the reference, both become bytes, trunc(255·m), of which each bit is in the result if it
    is in both: where one of them is 0 or 1 that is the lesser value, between soft values it may be
    less. A resulting mask may be 0 everywhere; see :func:`~segs_client.tools.without_empty`.

    Args:
        segs: to change.
        mask: [H, W] of the SEGS' size, or [N, H, W], one for each SEG, see
            :func:`segs_client.unit_floats.as_unit_floats`. The mask of other SEGS is
            :func:`combined_mask`.

    Raises:
        InvalidRequest: not such a mask.

    Example:
        >>> segs = Segs.from_boxes([(0, 0, 4, 4)], (9, 9))
        >>> left = np.zeros((9, 9))
        >>> left[:, :2] = 1
        >>> int(intersected(segs, left)[0].mask.sum())
        8
    """
    return _combined(segs, mask, np.bitwise_and)


@contract_checked()
def subtracted(segs: Segs, mask: npt.ArrayLike) -> Segs:
    """The SEGS with a whole picture's mask subtracted from their masks, 0 at least.

    As in the reference the masks are bytes, trunc(255·m). Args and errors: of :func:`intersected`.

    Example:
        >>> segs = Segs.from_boxes([(0, 0, 4, 4)], (9, 9))
        >>> left = np.zeros((9, 9))
        >>> left[:, :1] = 1
        >>> int(subtracted(segs, left)[0].mask.sum())
        12
    """
    return _combined(segs, mask, lambda own, other: own - np.minimum(own, other))


def combined_mask(segs: Segs) -> FloatArray:
    """One mask [H, W] of all SEGS: their masks ORed, 0 where there is no SEG.

    As in the reference the masks are bytes, trunc(255·m), ORed bit by bit: between soft values the
    result may be greater than both.

    Example:
        >>> int(combined_mask(Segs.from_boxes([(0, 0, 2, 2), (1, 1, 3, 3)], (9, 9))).sum())
        7
    """
    out = np.zeros(segs.size, np.uint8)
    for seg in segs:
        common = overlap(seg.crop_region, whole(segs.size))
        if common is not None:
            out[window(common)] |= to_pixels(moved(seg.mask, seg.crop_region, common))
    return from_bytes(out)


def _changed(segs: Segs, change: Callable[[Seg], FloatArray]) -> Segs:
    return Segs(segs.size, tuple(replace(seg, mask=change(seg)) for seg in segs))


def _combined(
    segs: Segs, mask: npt.ArrayLike, combine: Callable[[ByteArray, ByteArray], ByteArray]
) -> Segs:
    """The SEGS with ``combine`` of the bytes of their masks and of ``mask`` under them."""
    items = []
    for seg, other in zip(segs, _one_for_each(segs, mask), strict=True):
        under = to_pixels(moved(other, whole(segs.size), seg.crop_region))
        items.append(replace(seg, mask=from_bytes(combine(to_pixels(seg.mask), under))))
    return Segs(segs.size, tuple(items))


def _one_for_each(segs: Segs, mask: npt.ArrayLike) -> list[FloatArray]:
    """A whole picture's mask for each SEG: the given one for all, or one each."""
    given = as_array(mask, "mask")
    shape = given.shape
    if len(shape) != 3 or shape[0] == 1 or shape[1:] != segs.size:
        return [picture_mask(mask, segs.size)] * len(segs)
    if shape[0] != len(segs):
        allowed = f"{len(segs)}, one for each SEG, or one mask [H, W] for all"
        raise invalid("mask", f"{shape[0]} masks given", allowed=allowed)
    stacked = given.reshape(-1, shape[2])  # one rule for the values of all
    return list(as_unit_floats(stacked, "mask", 2).reshape(shape))


def _check_radius(px: int) -> None:
    if px < 0:
        raise invalid("px", "negative", value=px, allowed="0 or more")
