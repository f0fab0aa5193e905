"""Encoding of pictures for a request, and decoding of a response's picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from segs_client.arrays import ByteArray, to_pixels
from segs_client.boxes import Size
from segs_client.contract import ImageInput, ImageReport, invalid

Picture: TypeAlias = "Image.Image | npt.NDArray[Any] | bytes | str | Path"

_SENT_AS_IS = ("PNG", "JPEG", "WEBP")


def encode_picture(picture: Picture) -> tuple[ImageInput, ByteArray, Size]:
    """Encodes a picture: its declaration, its bytes (uint8 [n]) and its (height, width).

    Args:
        picture: a PIL image; an array [H, W, 3], uint8 or float in 0..1 (becomes
            ``trunc(clip(255 * x, 0, 255))``); an encoded file's bytes; or its path. RGB files of
            PNG, JPEG and WebP are sent unchanged. Others are sent as raw RGB pixels, with the
            file's orientation applied and without transparency.

    Raises:
        ContractError: not a picture, more than one, or an array of another kind.
        OSError: the path cannot be read.

    Example:
        >>> declared, data, size = encode_picture(np.zeros((2, 4, 3), np.uint8))
        >>> declared.shape, data.size, size
        ((2, 4, 3), 24, (2, 4))
    """
    if isinstance(picture, (str, Path)):
        picture = Path(picture).read_bytes()
    if isinstance(picture, bytes):
        return _encode_file(picture)
    if isinstance(picture, Image.Image):
        return _encode_pixels(np.asarray(to_mode(picture, "RGB")))
    return _encode_pixels(_as_pixels(picture))


def read_pixels(picture: Picture) -> ByteArray:
    """A picture's pixels uint8 [H, W, 3] as the server decodes them.

    Args, errors: as of :func:`encode_picture`.

    Example:
        >>> int(read_pixels(np.full((2, 4, 3), 0.5)).max())
        127
    """
    declared, data, _ = encode_picture(picture)
    if declared.shape is not None:
        return data.reshape(declared.shape)
    with Image.open(io.BytesIO(data.tobytes())) as opened:
        return np.asarray(opened)


def to_mode(picture: Image.Image, mode: Literal["RGB", "L"]) -> Image.Image:
    """Converts a picture; of 16 bits the upper 8 are used, where Pillow would clip.

    Example:
        >>> grey = Image.fromarray(np.full((2, 4), 0x80FF, np.uint16))
        >>> to_mode(grey, "L").getextrema()
        (128, 128)
    """
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert(mode)


def decode_picture(form: ImageReport, data: ByteArray) -> Image.Image | None:
    """The RGB picture of a response; None if none was requested.

    Raises:
        ContractError: ``data`` is not a picture as described by ``form``.
    """
    if form.encoding == "none":
        return None
    height, width, _ = form.shape
    if form.encoding == "raw":
        if data.size != height * width * 3:
            raise invalid("image", f"{data.size} bytes", allowed=f"{height * width * 3} bytes")
        return Image.fromarray(data.reshape(form.shape))
    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=[form.encoding.upper()]) as picture:
            decoded = picture.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise invalid("image", f"not a readable {form.encoding} file") from None
    if decoded.size != (width, height):
        raise invalid("image", "wrong size", value=decoded.size, allowed=str((width, height)))
    return decoded


def _encode_file(data: bytes) -> tuple[ImageInput, ByteArray, Size]:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if getattr(picture, "n_frames", 1) != 1:
                frames = f"{getattr(picture, 'n_frames', 0)} frames"
                raise invalid("image", "more than one picture", value=frames, allowed="one")
            upright = picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
            if picture.format in _SENT_AS_IS and picture.mode == "RGB" and upright:
                return ImageInput(), np.frombuffer(data, np.uint8), (picture.height, picture.width)
            upright_picture = ImageOps.exif_transpose(picture)
            return _encode_pixels(np.asarray(to_mode(upright_picture, "RGB")))
    except (OSError, SyntaxError, Image.DecompressionBombError):
        allowed = "PNG, JPEG, WebP or another file that Pillow reads"
        raise invalid("image", "not a readable picture", allowed=allowed) from None


def _encode_pixels(pixels: ByteArray) -> tuple[ImageInput, ByteArray, Size]:
    height, width, _ = pixels.shape
    declared = ImageInput(encoding="raw", shape=(height, width, 3))
    return declared, np.ascontiguousarray(pixels).ravel(), (height, width)


def _as_pixels(array: object) -> ByteArray:
    if not isinstance(array, np.ndarray):
        allowed = "a PIL image, a numpy array, an encoded file's bytes, or a path"
        raise invalid("image", "not a picture", value=type(array).__name__, allowed=allowed)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        allowed = "[height, width, 3]"
        raise invalid("image", "wrong shape", value=list(array.shape), allowed=allowed)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        allowed = "uint8, or float in 0..1"
        raise invalid("image", "wrong dtype", value=str(array.dtype), allowed=allowed)
    if not np.isfinite(array).all():
        raise invalid("image", "not finite", allowed="values 0 … 1")
    # float32 first, as in the reference: truncation depends on it.
    return to_pixels(array.astype(np.float32))
