"""A picture that shows SEGS."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from segs_client.arrays import from_bytes
from segs_client.drawing import colour_of, outline
from segs_client.errors import contract_checked
from segs_client.pasting import paste
from segs_client.pictures import Picture, read_picture, with_profile
from segs_client.scaling import scaled_to
from segs_client.segs import Seg, Segs

_TINT_ALPHA = 110


@contract_checked()
def preview_image(
    image: Picture, segs: Segs, *, masks: bool = True, boxes: bool = True, labels: bool = True
) -> Image.Image:
    """The picture with every SEG in a different colour.

    Args:
        image: see :func:`segs_client.pictures.encode_picture`.
        segs: scaled to the picture if their size differs.
        masks: tint the masks.
        boxes: outline boxes, and crop regions in dashes.
        labels: number the SEGS and name their labels.

    Returns:
        An RGB picture of the size of ``image``, with its ICC profile in ``info``.

    Raises:
        InvalidRequest: not a picture.
        OSError: the path cannot be read.

    Example:
        >>> segs = Segs.from_boxes([(4, 4, 12, 12)], (24, 24))
        >>> picture = preview_image(np.zeros((24, 24, 3)), segs, boxes=False, labels=False)
        >>> picture.getpixel((8, 8)), picture.getpixel((0, 0))
        ((110, 43, 31), (0, 0, 0))
    """
    pixels, profile = read_picture(image)
    picture = with_profile(Image.fromarray(pixels), profile)
    scaled = scaled_to(segs, (picture.height, picture.width))
    if masks:
        tinted = Segs(scaled.size, tuple(_tint(seg, index) for index, seg in enumerate(scaled)))
        picture = paste(picture, tinted, feather=0, alpha=_TINT_ALPHA)
    outline(picture, scaled, boxes=boxes, labels=labels)
    return picture


def _tint(seg: Seg, index: int) -> Seg:
    colour = from_bytes(np.array(colour_of(index), np.uint8))
    return replace(seg, image=np.broadcast_to(colour, (*seg.mask.shape, 3)))
