"""SEGSPaste: pastes detailed crops into the picture under their blurred masks.

The server uses :func:`paste_crop`, users of the client :func:`paste`.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from pydantic import ValidationError

from segs_client.arrays import FloatArray, from_bytes, resize_bilinear, to_pixels_rounded
from segs_client.blur import blur
from segs_client.boxes import Box, window
from segs_client.contract import PasteOptions, invalid
from segs_client.errors import contract_checked
from segs_client.pictures import Picture, read_picture, read_pixels, with_profile
from segs_client.refusals import from_validation_error
from segs_client.scaling import scaled_to
from segs_client.segs import Segs


@contract_checked()
def paste(
    image: Picture,
    segs: Segs,
    *,
    feather: int = 5,
    alpha: int = 255,
    ref_image: Picture | None = None,
) -> Image.Image:
    """Pastes the SEGS' crops into a picture, in order; SEGS without a crop are skipped.

    The picture under a crop region becomes ``(1−m)·picture + m·crop``, where m is the SEG's mask,
    blurred by ``feather`` and multiplied by ``alpha``/255. Parts outside the picture are cut off. A
    mask is resized to a crop of another size.

    Args:
        image: see :func:`segs_client.pictures.encode_picture`.
        segs: scaled to the picture if their size differs, see
            :func:`segs_client.scaling.scaled_to`.
        feather: blur radius of the masks, px.
        alpha: opacity, 0..255.
        ref_image: a picture as large as ``image`` whose pixels under the crop regions are pasted
            instead of the crops, for SEGS with and without one.

    Returns:
        An RGB picture of the size of ``image``, with its ICC profile in ``info``.

    Raises:
        InvalidRequest: not a picture, a ref_image of another size, an option out of range, or a
            SEG that is empty after scaling.
        OSError: a path cannot be read.

    Example:
        >>> segs = Segs.from_boxes([(4, 4, 12, 12)], (16, 16), crop_factor=1)
        >>> pasted = paste(np.zeros((16, 16, 3)), segs, feather=0, ref_image=np.ones((16, 16, 3)))
        >>> pasted.getpixel((8, 8)), pasted.getpixel((0, 0))
        ((255, 255, 255), (0, 0, 0))
    """
    options = _checked(feather, alpha)
    pixels, profile = read_picture(image)
    canvas = from_bytes(pixels)
    reference = None if ref_image is None else from_bytes(read_pixels(ref_image))
    if reference is not None and reference.shape != canvas.shape:
        height, width, _ = canvas.shape
        shown = list(reference.shape[:2])
        raise invalid("ref_image", "size differs", value=shown, allowed=f"[{height}, {width}]")
    for seg in scaled_to(segs, (canvas.shape[0], canvas.shape[1])):
        if reference is not None:
            weight = _weight(seg.mask, options.feather, options.alpha)
            _blend(canvas, reference[window(seg.crop_region)], weight, seg.crop_region)
        elif seg.image is not None:
            paste_crop(
                canvas, seg.image, seg.mask, seg.crop_region,
                feather=options.feather, alpha=options.alpha,
            )  # fmt: skip
    return with_profile(Image.fromarray(to_pixels_rounded(canvas)), profile)


def paste_crop(
    canvas: FloatArray,
    crop: FloatArray,
    mask: FloatArray,
    crop_region: Box,
    *,
    feather: int,
    alpha: int,
) -> None:
    """Blends one crop into ``canvas`` ``[H, W, 3]`` in place: ``(1−m)·canvas + m·crop``.

    Args:
        canvas: float32, 0..1.
        crop: ``[h, w, 3]``; if its size differs from the mask's, the mask is resized.
        mask: ``[h, w]``; blurred by ``feather`` px and multiplied by ``alpha``/255.
        crop_region: the place of its top left corner; parts outside the picture are cut off.
    """
    weight = resize_bilinear(_weight(mask, feather, alpha), crop.shape[0], crop.shape[1])
    _blend(canvas, crop, weight, crop_region)


def _weight(mask: FloatArray, feather: int, alpha: int) -> FloatArray:
    return blur(mask, feather) * np.float32(alpha / 255)


def _blend(canvas: FloatArray, crop: FloatArray, weight: FloatArray, crop_region: Box) -> None:
    left, top = crop_region[:2]
    under = canvas[top : top + weight.shape[0], left : left + weight.shape[1]]
    height, width, _ = under.shape
    share = weight[:height, :width, None]
    under[:] = (1 - share) * under + share * crop[:height, :width]


def _checked(feather: int, alpha: int) -> PasteOptions:
    try:
        return PasteOptions(feather=feather, alpha=alpha)
    except ValidationError as error:
        raise from_validation_error(error, PasteOptions.model_json_schema()) from None
