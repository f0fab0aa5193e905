"""Callers' masks and crops as float32 in 0..1: arrays, PIL pictures and files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from segs_client.arrays import ByteArray, FloatArray, from_bytes
from segs_client.contract import invalid
from segs_client.conversions import as_array, to_levels, to_mode
from segs_client.pictures import open_upright

ROUNDING = float(np.finfo(np.float16).eps)
"""How far floats of a mask or a crop may be beyond 0..1 by the rounding of what made them, a blur
for one: the step of float16 at 1. What is beyond is clipped."""


def as_unit_floats(
    value: npt.ArrayLike | Image.Image | str | Path, name: str, axes: Literal[2, 3]
) -> FloatArray:
    """A read-only float32 copy of a mask ``[h, w]`` or a picture ``[h, w, 3]``, in 0..1.

    Args:
        value: bool; float in 0..1, which may be beyond by :data:`ROUNDING`; or whole numbers in
            0..255, which are divided by 255. A mask of whole numbers without any above 1 is one of
            0 and 1. A mask may be ``[1, h, w]`` or ``[h, w, 1]`` too. Or a PIL picture or the path
            of a file, of a mask see :func:`mask_levels`.
        name: in errors.
        axes: 2 for a mask, 3 for a picture.

    Raises:
        ContractError: wrong dtype, shape, or values out of range.
        OSError: the path cannot be read.

    Example:
        >>> as_unit_floats(np.array([[0, 255]], np.uint8), "mask", 2)
        array([[0., 1.]], dtype=float32)
        >>> as_unit_floats(np.array([[0, 1]], np.uint8), "mask", 2)
        array([[0., 1.]], dtype=float32)
    """
    if isinstance(value, (str, Path)):
        value = open_upright(value, name)
    if isinstance(value, Image.Image):
        value = mask_levels(value, name) if axes == 2 else np.asarray(to_mode(value, "RGB", name))
    array = as_array(value, name)
    if axes == 2 and array.ndim == 3:
        array = array[0] if array.shape[0] == 1 else array[..., 0] if array.shape[2] == 1 else array
    wanted = "[height, width]" if axes == 2 else "[height, width, 3]"
    if array.ndim != axes or array.size == 0 or (axes == 3 and array.shape[2] != 3):
        raise invalid(name, "wrong shape", value=list(array.shape), allowed=wanted)
    if array.dtype.kind == "f":
        floats = array.astype(np.float32, order="C", copy=True)
        low, high = float(floats.min()), float(floats.max())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            found = "not finite" if low != low else f"values from {low:g} to {high:g}"
            allowed = "0 … 1, no NaN; divide values of 0 … 255 by 255"
            raise invalid(name, found, allowed=allowed)
        if low < 0 or high > 1:
            floats.clip(0, 1, out=floats)
    else:
        whole = axes == 2 and array.dtype.kind in "iu"
        is_binary = whole and array.min() >= 0 and array.max() <= 1
        floats = from_bytes(to_levels(array.astype(bool) if is_binary else array, name))
    floats.setflags(write=False)
    return floats


def mask_levels(picture: Image.Image, name: str) -> ByteArray:
    """A picture as a mask uint8 ``[h, w]``, 0..255: white is redrawn, or what is opaque.

    Where the transparency varies, and all that can be seen has one colour, the mask is the alpha
    channel. Where it does not vary, the mask is how bright the pixels are.

    Raises:
        ContractError: transparency and colours both vary, so either may be meant.

    Example:
        >>> picture = Image.new("RGBA", (2, 1), (9, 9, 9, 0))
        >>> picture.putpixel((1, 0), (9, 9, 9, 200))
        >>> mask_levels(picture, "mask")
        array([[  0, 200]], dtype=uint8)
    """
    if picture.mode[0] in "IF" or not picture.has_transparency_data:
        return np.asarray(to_mode(picture, "L", name))
    pixels = np.asarray(picture.convert("RGBA"))
    alpha = pixels[..., 3]
    if alpha.min() == alpha.max():
        return np.asarray(to_mode(picture, "L", name))
    seen = pixels[..., :3][alpha > 0]
    if (seen != seen[0]).any():
        allowed = "a mask in grey levels without transparency, or one colour with the mask as alpha"
        raise invalid(name, "both its colours and its transparency vary", allowed=allowed)
    return alpha
