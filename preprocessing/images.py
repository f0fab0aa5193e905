"""Decoding and encoding of pictures.

Pixels are uint8 ``[H, W, 3]`` RGB; values are float32 ``[H, W, 3]``, 0…1.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from request_plan.limits import DEFAULT, Limits
from segs_client.arrays import ByteArray, FloatArray, decode
from segs_client.boxes import Size
from segs_client.colors import ColorOption
from segs_client.contract import Buffer, ImageInput, invalid
from segs_client.picture_files import PictureFile, inspect
from segs_client.picture_metadata import MAX_PROFILE_BYTES
from segs_client.pictures import decode_file


@dataclass(frozen=True)
class Picture:
    """A picture with a checked header and undecoded pixels; ``size`` is that of the upright one."""

    size: Size
    _file: PictureFile | None
    _data: ByteArray
    _field: str

    @property
    def profile_bytes(self) -> int:
        """The most that its ICC profile may take."""
        has_profile = self._file is not None and self._file.profile_spans
        return MAX_PROFILE_BYTES if has_profile else 0

    def read(self, color: ColorOption = "keep") -> tuple[ByteArray, bytes | None]:
        """uint8 ``[H, W, 3]``, and the ICC profile of these values, if the file has one of RGB that
        is kept. The picture is upright. Transparency is dropped, grey becomes RGB, 16 bits become
        8; see :func:`segs_client.colors.to_rgb` for colours.

        Raises:
            ContractError: truncated or broken.
        """
        if self._file is None:
            return self._data.reshape(*self.size, 3), None
        return decode_file(self._file, color, self._field)


def open_picture(
    data: ByteArray, form: ImageInput, limits: Limits = DEFAULT, field: str = "image"
) -> Picture:
    """Checks the request's ``image`` tensor, a file or raw pixels, without decoding it.

    Raises:
        ContractError: no picture, an animation, too large, or not as long as its shape.
    """
    if form.shape is None:
        file = inspect(data.data, field)
        check_size(*file.size, field, limits)
        return Picture(file.size, file, data, field)
    height, width, _ = form.shape
    check_size(height, width, f"{field}.shape", limits)
    expected = math.prod(form.shape)
    if data.size != expected:
        raise invalid(field, f"{data.size} bytes", allowed=f"{expected} bytes for its shape")
    return Picture((height, width), None, data, field)


def check_size(height: int, width: int, field: str, limits: Limits) -> None:
    """Raises ContractError if a picture exceeds the limits."""
    side, pixels = limits.max_picture_side_px, limits.max_picture_pixels
    if max(height, width) > side or height * width > pixels:
        allowed = f"sides up to {side} px and up to {pixels} pixels"
        raise invalid(field, "too large", value=f"{width}×{height}", allowed=allowed)


def encode(
    pixels: ByteArray,
    encoding: Literal["png", "jpeg", "webp", "raw"],
    quality: int,
    profile: bytes | None = None,
) -> ByteArray:
    """Pixels as the bytes of a file with an ICC profile, or raw; flat uint8."""
    if encoding == "raw":
        return np.ascontiguousarray(pixels).reshape(-1)
    out = io.BytesIO()
    options: dict[str, int] = {"compress_level": 1} if encoding == "png" else {"quality": quality}
    Image.fromarray(pixels).save(out, format=encoding, icc_profile=profile, **options)
    return np.frombuffer(out.getvalue(), dtype=np.uint8)


def read_buffer(tensor: ByteArray | None, place: Buffer, field: str) -> FloatArray:
    """An array of the request: float32 values of ``place.shape``, 0…1.

    Raises:
        ContractError: it is outside the tensor, does not decode, or has other values.
    """
    values = decode(place, np.empty(0, dtype=np.uint8) if tensor is None else tensor, field)
    low, high = float(values.min()), float(values.max())  # both are NaN if a value is
    if not (low >= 0.0 and high <= 1.0):
        raise invalid(field, "values out of range", value=f"{low:g}…{high:g}", allowed="0 … 1")
    return values
