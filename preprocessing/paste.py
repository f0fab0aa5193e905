"""SEGSPaste: the detailed crops go back into the picture under their blurred masks."""

from __future__ import annotations

import numpy as np

from preprocessing.images import Values
from preprocessing.masks import Mask, blur
from segs_client.arrays import resize_bilinear
from segs_client.contract import Box


def paste(
    canvas: Values, crop: Values, mask: Mask, crop_region: Box, *, feather: int, alpha: int
) -> None:
    """Blends one crop into ``canvas`` ``[H, W, 3]`` in place: ``(1−m)·canvas + m·crop``.

    Args:
        crop: ``[h, w, 3]``; another size than the mask's resizes the mask to it.
        mask: ``[h, w]``; blurred by ``feather`` px and multiplied by ``alpha``/255.
        crop_region: where its top left corner goes; what leaves the picture is cut off.
    """
    weight = blur(mask, feather) * np.float32(alpha / 255)
    weight = resize_bilinear(weight, crop.shape[0], crop.shape[1])[:, :, None]
    left, top = crop_region[:2]
    height = min(crop.shape[0], canvas.shape[0] - top)
    width = min(crop.shape[1], canvas.shape[1] - left)
    under = canvas[top : top + height, left : left + width]
    weight = weight[:height, :width]
    under[:] = (1 - weight) * under + weight * crop[:height, :width]
