"""Arrays of the contract: float32 in 0..1, their pixels, and their bytes on the wire."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from segs_client.contract import Buffer, invalid
from segs_client.picture_files import PictureFile, inspect

FloatArray: TypeAlias = npt.NDArray[np.float32]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
AnyArray: TypeAlias = npt.NDArray[Any]


def from_bytes(array: AnyArray) -> FloatArray:
    """uint8 0..255 as float32 0..1, divided in float32."""
    return np.ascontiguousarray(array).astype(np.float32) / np.float32(255)


def to_pixels(values: FloatArray) -> ByteArray:
    """``trunc(clip(255·x, 0, 255))``, the reference's conversion of floats to pixels."""
    return np.clip(np.float32(255) * values, 0, 255).astype(np.uint8)


def to_pixels_rounded(values: FloatArray) -> ByteArray:
    """The nearest pixel values, for the service's outputs."""
    return np.rint(np.clip(np.float32(255) * values, 0, 255)).astype(np.uint8)


def encode(array: FloatArray, offset: int) -> tuple[Buffer, bytes]:
    """The bytes of a float array in 0..1, and their place: uint8 if that is lossless.

    :func:`decode` returns ``array`` bit for bit.

    Example:
        >>> encode(np.ones((2, 2), np.float32), offset=10)[0].encoding
        'uint8'
    """
    data, encoding = as_lossless_bytes(array)
    buffer = Buffer(offset=offset, length=len(data), shape=array.shape, encoding=encoding)
    return buffer, data


def as_lossless_bytes(array: FloatArray) -> tuple[bytes, Literal["uint8", "float32"]]:
    """The shortest lossless raw encoding."""
    rounded = np.rint(array * np.float32(255)).astype(np.uint8)
    same = np.array_equal(from_bytes(rounded).view(np.uint32), array.view(np.uint32))
    if same:
        return rounded.tobytes(), "uint8"
    return array.astype("<f4", copy=False).tobytes(), "float32"


def decode(buffer: Buffer, tensor: ByteArray, name: str) -> FloatArray:
    """Reads the array of ``buffer`` from a concatenated byte tensor.

    Args:
        buffer: place, shape and encoding.
        tensor: uint8 ``[n]``.
        name: in errors, e.g. ``segs.items.0.mask``.

    Returns:
        float32 ``[h, w]`` or ``[h, w, 3]``, 0..1 (raw float32 values are not checked).

    Raises:
        ContractError: the buffer is outside the tensor, or its file is not such a picture.
    """
    place = checked_place(buffer, tensor, name)
    if buffer.encoding == "float32":
        values = np.frombuffer(place.tobytes(), "<f4").astype(np.float32, copy=False)
        return values.reshape(buffer.shape)
    if buffer.encoding == "uint8":
        return from_bytes(place.reshape(buffer.shape))
    return from_bytes(np.asarray(_inspect_png(buffer, place, name).decode(name)))


def checked_place(buffer: Buffer, tensor: ByteArray, name: str) -> ByteArray:
    """The bytes of ``buffer`` in ``tensor``, uint8 ``[length]``, a view. A PNG file's header is
    compared with the shape; nothing is decoded.

    Raises:
        ContractError: it is outside the tensor, or its file is not such a picture.
    """
    end = buffer.offset + buffer.length
    if end > tensor.size:
        raise invalid(name, f"ends at byte {end}", allowed=f"a tensor of {tensor.size} bytes")
    place = tensor[buffer.offset : end]
    if buffer.encoding == "png":
        _inspect_png(buffer, place, name)
    return place


def _inspect_png(buffer: Buffer, place: ByteArray, name: str) -> PictureFile:
    file = inspect(place.data, name, ("PNG",))
    mode = "L" if len(buffer.shape) == 2 else "RGB"
    if file.size != buffer.shape[:2] or file.mode != mode:
        found = f"{file.mode} {file.size[0]}×{file.size[1]}"
        allowed = f"{mode} {buffer.shape[0]}×{buffer.shape[1]}"
        raise invalid(name, "not the picture that was announced", value=found, allowed=allowed)
    return file


def resize_lanczos(pixels: ByteArray, height: int, width: int) -> ByteArray:
    """PIL's Lanczos on uint8 ``[h, w, 3]``; a picture of this size is returned unchanged."""
    if pixels.shape[:2] == (height, width):
        return pixels
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def resize_bilinear(mask: FloatArray, height: int, width: int) -> FloatArray:
    """A mask ``[h, w]`` resized bilinearly, pixel centres at half-integers, no smoothing.

    Example:
        >>> resize_bilinear(np.array([[0, 1]], np.float32), 1, 4)
        array([[0.  , 0.25, 0.75, 1.  ]], dtype=float32)
    """
    if mask.shape == (height, width):
        return mask
    top, bottom, down = _neighbours(mask.shape[0], height)
    left, right, across = _neighbours(mask.shape[1], width)
    columns = mask[:, left] * (1 - across) + mask[:, right] * across
    resized = columns[top] * (1 - down)[:, None] + columns[bottom] * down[:, None]
    return np.asarray(resized, np.float32)


def _neighbours(old: int, new: int) -> tuple[AnyArray, AnyArray, FloatArray]:
    """Indices before and after each new pixel's centre [new], and the weight of the latter, all
    computed in float32 as in torch."""
    scale = np.float32(old) / np.float32(new)
    centre = scale * (np.arange(new, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    centre = np.maximum(centre, np.float32(0))
    before = np.minimum(centre.astype(np.intp), old - 1)
    after = np.minimum(before + 1, old - 1)
    return before, after, (centre - before.astype(np.float32)).astype(np.float32)
