"""Pictures: bytes to pixels and back.

Pixels are uint8 ``[H, W, 3]`` RGB; values are float32 ``[H, W, 3]``, 0…1.
"""

from __future__ import annotations

import io
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preprocessing.limits import MAX_IMAGE_PIXELS, MAX_SIDE_PX
from segs_client.arrays import decode
from segs_client.contract import Buffer, ImageInput, invalid
from segs_client.picture_files import inspect

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]


def decode_file(data: bytes | memoryview, field: str) -> Pixels:
    """Decodes a PNG, JPEG or WebP file; its header is checked before its pixels are touched.

    Transparency is dropped, grey becomes RGB, 16 bits become 8, EXIF rotation is left alone (as
    ComfyUI's inputs are plain arrays, boxes refer to the stored pixels).

    Raises:
        ContractError: not such a file, more than one picture, truncated, or too large.
    """
    file = inspect(data, field)
    check_size(file.height, file.width, field)
    picture = file.decode(field)
    if picture.mode.startswith("I;16"):  # Pillow would clip its values, not scale them
        return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))


def check_size(height: int, width: int, field: str) -> None:
    """Refuses pictures beyond the limits."""
    if max(height, width) > MAX_SIDE_PX or height * width > MAX_IMAGE_PIXELS:
        raise invalid(field, "too large", value=f"{width}×{height}", allowed=_size_limits())


def _size_limits() -> str:
    return f"sides up to {MAX_SIDE_PX} px and up to {MAX_IMAGE_PIXELS} pixels"


def decode_input(data: Pixels, form: ImageInput) -> Pixels:
    """The request's ``image`` tensor as pixels."""
    if form.shape is None:
        return decode_file(data.data, "image")
    height, width, _ = form.shape
    check_size(height, width, "image.shape")
    expected = math.prod(form.shape)
    if data.size != expected:
        raise invalid("image", f"{data.size} bytes", allowed=f"{expected} bytes for its shape")
    return data.reshape(form.shape)


def encode(pixels: Pixels, encoding: Literal["png", "jpeg", "webp", "raw"], quality: int) -> Pixels:
    """Pixels as the bytes of a file, or as they are; flat uint8."""
    if encoding == "raw":
        return np.ascontiguousarray(pixels).reshape(-1)
    out = io.BytesIO()
    options: dict[str, int] = {"compress_level": 1} if encoding == "png" else {"quality": quality}
    Image.fromarray(pixels).save(out, format=encoding, **options)
    return np.frombuffer(out.getvalue(), dtype=np.uint8)


def read_buffer(tensor: Pixels | None, place: Buffer, field: str) -> Values:
    """An array of the request: float32 values of ``place.shape``, 0…1.

    Raises:
        ContractError: it lies outside the tensor, does not decode, or has other values.
    """
    values = decode(place, np.empty(0, dtype=np.uint8) if tensor is None else tensor, field)
    low, high = float(values.min()), float(values.max())  # NaN shows in both
    if not (low >= 0.0 and high <= 1.0):
        raise invalid(field, "values out of range", value=f"{low:g}…{high:g}", allowed="0 … 1")
    return values
