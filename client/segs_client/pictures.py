"""Encoding of pictures for a request, and decoding of a response's picture."""

from __future__ import annotations

import importlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from segs_client.arrays import ByteArray
from segs_client.boxes import Size, checked_size
from segs_client.colors import ColorOption, kept_profile, to_rgb
from segs_client.contract import ImageInput, ImageReport, invalid
from segs_client.conversions import SupportsArray, as_array, to_levels
from segs_client.picture_files import PictureFile, inspect, is_supported
from segs_client.picture_metadata import is_sideways, turned

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""Of the files of phones that Pillow reads with the package pillow-heif."""

Picture: TypeAlias = "Image.Image | npt.NDArray[Any] | SupportsArray | bytes | str | Path"


@dataclass(frozen=True, eq=False)
class EncodedPicture:
    """A picture as it is sent.

    Attributes:
        declared: its form in the request.
        data: uint8 [n], the ``image`` tensor.
        size: height and width of the upright picture.
        profile: the ICC profile, of RGB, of the values that the server reads.
    """

    declared: ImageInput
    data: ByteArray
    size: Size
    profile: bytes | None = None


def encode_picture(picture: Picture, color: ColorOption = "keep") -> EncodedPicture:
    """Encodes a picture.

    Args:
        picture: a PIL image; an array, or what numpy makes one of, such as a tensor of torch; an
            encoded file's bytes; or its path. Files of PNG, JPEG and WebP are sent unchanged, up to
            the end of their first picture; the server makes them upright. Others are sent as raw
            RGB pixels, upright, without transparency, see :func:`segs_client.colors.to_rgb`.
            Arrays are [H, W, 3]; [H, W, 4], whose transparency is dropped; [H, W] or [H, W, 1],
            grey; or a batch of one of these, with values as of
            :func:`segs_client.conversions.to_levels`.
        color: ``output.color`` of the request.

    Raises:
        ContractError: not a picture, an animation, or an array of another kind.
        OSError: the path cannot be read.

    Example:
        >>> encoded = encode_picture(np.zeros((2, 4, 3), np.uint8))
        >>> encoded.declared.shape, encoded.data.size, encoded.size
        ((2, 4, 3), 24, (2, 4))
    """
    source = _opened(picture)
    if isinstance(source, PictureFile):
        data = np.frombuffer(source.data[: source.end], np.uint8)
        profile = kept_profile(source.mode, source.profile(), color)
        return EncodedPicture(ImageInput(), data, source.size, profile)
    pixels, profile = _pixels(source, color)
    height, width, _ = pixels.shape
    declared = ImageInput(encoding="raw", shape=(height, width, 3))
    data = np.ascontiguousarray(pixels).ravel()
    return EncodedPicture(declared, data, (height, width), profile)


def read_pixels(picture: Picture) -> ByteArray:
    """A picture's pixels uint8 [H, W, 3] as the server decodes them.

    Args, errors: as of :func:`encode_picture`.

    Example:
        >>> int(read_pixels(np.full((2, 4, 3), 0.5)).max())
        127
    """
    return read_picture(picture)[0]


def read_picture(picture: Picture, color: ColorOption = "keep") -> tuple[ByteArray, bytes | None]:
    """The pixels of :func:`read_pixels`, and their ICC profile, if it is of RGB and kept."""
    return _pixels(_opened(picture), color)


def picture_size(picture: Picture) -> Size:
    """Height and width of the upright picture, of a file by its header alone.

    Args, errors: as of :func:`encode_picture`.

    Example:
        >>> picture_size(Image.new("RGB", (40, 30)))
        (30, 40)
    """
    source = _opened(picture)
    if isinstance(source, PictureFile):
        return source.size
    if isinstance(source, Image.Image):
        height, width = source.height, source.width
        return (width, height) if is_sideways(_orientation(source)) else (height, width)
    return source.shape[0], source.shape[1]


def size_of(value: Size | Picture) -> Size:
    """The size of a picture, or a given (height, width), checked.

    Raises:
        ContractError: not a size, or as of :func:`encode_picture`.
        OSError: the path cannot be read.
    """
    if isinstance(value, (Image.Image, bytes, str, Path)) or getattr(value, "ndim", 1) > 1:
        return picture_size(value)  # type: ignore[arg-type]
    return checked_size(value)  # type: ignore[arg-type]


def open_upright(picture: Image.Image | bytes | str | Path, field: str = "image") -> Image.Image:
    """A PIL image, or a file's, upright, in its own mode and with its profile in ``info``.

    Args, errors: as of :func:`encode_picture`; ``field`` is the picture's name in errors.
    """
    source = _opened(picture, field)
    if isinstance(source, Image.Image):
        return _upright(source)
    assert isinstance(source, PictureFile)  # of arrays there is none here
    return with_profile(source.decode(field), source.profile())


def decode_file(
    file: PictureFile, color: ColorOption, field: str
) -> tuple[ByteArray, bytes | None]:
    """The upright pixels uint8 [H, W, 3] of a file, and their ICC profile.

    Raises:
        ContractError: the file is truncated or broken.
    """
    image, profile = to_rgb(file.decode(field), file.profile(), color, field)
    return np.asarray(image), profile


def decode_picture(
    form: ImageReport, data: ByteArray, profile: bytes | None = None
) -> Image.Image | None:
    """The RGB picture of a response, its ICC profile in ``info``; None if none was requested.

    Args:
        form: of the picture.
        data: uint8 [n].
        profile: of :class:`EncodedPicture`.

    Raises:
        ContractError: ``data`` is not a picture as described by ``form``.
    """
    if form.encoding == "none":
        return None
    height, width, _ = form.shape
    if form.encoding == "raw":
        if data.size != height * width * 3:
            raise invalid("image", f"{data.size} bytes", allowed=f"{height * width * 3} bytes")
        return with_profile(Image.fromarray(data.reshape(form.shape)), profile)
    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=[form.encoding.upper()]) as picture:
            decoded = picture.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise invalid("image", f"not a readable {form.encoding} file") from None
    if decoded.size != (width, height):
        raise invalid("image", "wrong size", value=decoded.size, allowed=str((width, height)))
    return with_profile(decoded, profile)


def with_profile(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture itself, with this ICC profile, or none, in its ``info``."""
    picture.info.pop("icc_profile", None)
    if profile is not None:
        picture.info["icc_profile"] = profile
    return picture


def _opened(picture: Picture, field: str = "image") -> Image.Image | PictureFile | ByteArray:
    """A picture of any kind, checked and not decoded; arrays as uint8 [H, W, 3]."""
    if isinstance(picture, (str, Path)):
        picture = Path(picture).read_bytes()
    if isinstance(picture, Image.Image):
        return picture
    if not isinstance(picture, bytes):
        return _array_pixels(picture, field)
    if is_supported(picture):
        return inspect(picture, field)
    try:
        image = _open(picture)
        frames = getattr(image, "n_frames", 1)
        if frames != 1:
            raise invalid(field, "more than one picture", value=f"{frames} frames", allowed="one")
        image.load()
        return image
    except Image.DecompressionBombError as error:
        raise invalid(field, f"too large: {error}", allowed="a smaller picture") from None
    except ImportError:
        allowed = "PNG, JPEG or WebP, or HEIC where the package pillow-heif is installed"
        raise invalid(field, "a HEIC file", allowed=allowed) from None
    except (OSError, SyntaxError):
        allowed = "PNG, JPEG, WebP or another file that Pillow reads"
        raise invalid(field, "not a readable picture", allowed=allowed) from None


def _open(data: bytes) -> Image.Image:
    """Opens a file by Pillow; of HEIF by its plugin, which is an option.

    Raises:
        ImportError: the plugin is needed and not installed.
    """
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        if data[4:8] != b"ftyp" or data[8:12] not in _HEIF_BRANDS:
            raise
    importlib.import_module("pillow_heif").register_heif_opener()
    return Image.open(io.BytesIO(data))


def _pixels(
    source: Image.Image | PictureFile | ByteArray, color: ColorOption
) -> tuple[ByteArray, bytes | None]:
    if isinstance(source, PictureFile):
        return decode_file(source, color, "image")
    if isinstance(source, Image.Image):
        image, profile = to_rgb(_upright(source), source.info.get("icc_profile"), color)
        return np.asarray(image), profile
    return source, None


def _upright(picture: Image.Image) -> Image.Image:
    """The picture by its EXIF, without that if it was turned; itself if it is upright."""
    upright = turned(picture, _orientation(picture))
    if upright is not picture:
        kept = ("icc_profile", "transparency")
        upright.info = {name: picture.info[name] for name in kept if name in picture.info}
    return upright


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation of a PIL image; 1 if it is broken."""
    picture.load()  # a TIFF is turned by that
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises many classes for broken blocks
        return 1
    return value if isinstance(value, int) else 1


def _array_pixels(value: object, field: str) -> ByteArray:
    if not hasattr(value, "__array__"):
        allowed = "a PIL image, a numpy array, an encoded file's bytes, or a path"
        raise invalid(field, "not a picture", value=type(value).__name__, allowed=allowed)
    given = as_array(value, field)
    array = given[0] if given.ndim == 4 and len(given) == 1 else given
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        allowed = "[height, width, 3], one picture, the channels last"
        raise invalid(field, "wrong shape", value=list(given.shape), allowed=allowed)
    pixels = to_levels(array[..., :3], field)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
