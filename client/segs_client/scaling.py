"""Scaling of SEGS from one size of a picture to another."""

from __future__ import annotations

import warnings
from dataclasses import replace

from segs_client.arrays import from_bytes, resize_bilinear, resize_lanczos, to_pixels
from segs_client.boxes import MAX_SIDE_PX, Box, FloatBox, Size, arithmetic
from segs_client.contract import invalid
from segs_client.errors import contract_checked
from segs_client.pictures import Picture, size_of
from segs_client.segs import Seg, Segs


@contract_checked()
def scaled_to(segs: Segs, size: Size | Picture) -> Segs:
    """The SEGS in pixels of a picture of another size, as the server scales them.

    Boxes are truncated, masks resized bilinearly, crops by Lanczos. Another aspect ratio is warned
    of, see :func:`warn_if_distorted`.

    Args:
        segs: returned unchanged if they have this size.
        size: the picture, or its height and width.

    Raises:
        InvalidRequest: not a size or a picture, or a scaled box is empty.
        OSError: the picture's path cannot be read.

    Example:
        >>> segs = Segs.from_boxes([(10, 12, 51, 63)], (100, 200), crop_factor=1)
        >>> scaled_to(segs, (150, 300))[0].bbox
        (15, 18, 76, 94)
    """
    size = size_of(size)
    if size == segs.size:
        return segs
    warn_if_distorted(segs.size, size)
    items = (
        scaled_seg(seg, segs.size, size, f"segs.items.{index}") for index, seg in enumerate(segs)
    )
    return Segs(size, tuple(items))


def warn_if_distorted(segs_size: Size, size: Size) -> None:
    """Warns where SEGS are of a picture with another aspect ratio, as with a swapped size.

    Args:
        segs_size, size: height and width of the SEGS and of the picture.
    """
    (height, width), (to_height, to_width) = segs_size, size
    rounding = 1.02 + 1 / min(*segs_size, *size)
    change = (width * to_height) / (height * to_width)
    if max(change, 1 / change) <= rounding:
        return
    swapped = (height * to_height) / (width * to_width)
    text = (
        f"the SEGS are of a picture {width} wide and {height} high, this one is {to_width} wide "
        f"and {to_height} high: boxes and masks are stretched to it"
    )
    if max(swapped, 1 / swapped) <= rounding:
        text += "; a size is (height, width), PIL's is (width, height)"
    warnings.warn(text, UserWarning, stacklevel=2)


def scaled_seg(seg: Seg, from_size: Size, to_size: Size, name: str) -> Seg:
    """One SEG of :func:`scaled_to`; ``name`` is that of the ContractError."""
    bbox, region = scaled_boxes(seg.bbox, seg.crop_region, from_size, to_size, name)
    height, width = region[3] - region[1], region[2] - region[0]
    image = seg.image
    if image is not None:
        image = from_bytes(resize_lanczos(to_pixels(image), height, width))
    mask = resize_bilinear(seg.mask, height, width)
    return replace(seg, mask=mask, bbox=bbox, crop_region=region, image=image)


def scaled_boxes(
    bbox: FloatBox, crop_region: Box, from_size: Size, to_size: Size, name: str
) -> tuple[Box, Box]:
    """A SEG's box and crop region at another size, both truncated to pixels.

    Raises:
        ContractError: a scaled box is empty, or no box of the contract.
    """
    scaled, region = (scale_box(box, from_size, to_size) for box in (bbox, crop_region))
    for field, box in (("bbox", scaled), ("crop_region", region)):
        if box[2] <= box[0] or box[3] <= box[1]:
            message = "nothing is left of it at the picture's size"
            allowed = f"sides of a pixel or more at {to_size[1]}×{to_size[0]}"
            raise invalid(f"{name}.{field}", message, value=list(box), allowed=allowed)
    if max(map(abs, scaled)) > MAX_SIDE_PX:
        allowed = f"edges -{MAX_SIDE_PX} … {MAX_SIDE_PX} at {to_size[1]}×{to_size[0]}"
        raise invalid(
            f"{name}.bbox", "too far outside the picture", value=list(scaled), allowed=allowed
        )
    return scaled, region


def scale_box(box: FloatBox, from_size: Size, to_size: Size) -> Box:
    """A box from one (height, width) to another, truncated to pixels."""
    number = arithmetic(box)
    y_ratio, x_ratio = number(to_size[0] / from_size[0]), number(to_size[1] / from_size[1])
    x1, y1, x2, y2 = (number(edge) for edge in box)
    return int(x1 * x_ratio), int(y1 * y_ratio), int(x2 * x_ratio), int(y2 * y_ratio)
