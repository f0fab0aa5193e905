"""Colours: pictures as RGB, and the ICC profile that their values are meant by.

Values are given to the networks as they are, as in the reference. Only what cannot be kept in an
RGB picture, a profile of grey or CMYK, or what is asked for, is converted.
"""

from __future__ import annotations

import io
from typing import Literal, TypeAlias

from PIL import Image, ImageCms

from segs_client.conversions import to_mode
from segs_client.picture_metadata import ProfileSpace, plain_profile, profile_space

ColorOption: TypeAlias = Literal["keep", "srgb"]

_GREY_MODES = ("1", "L", "LA", "La", "I", "F")


def to_rgb(
    picture: Image.Image, profile: bytes | None, color: ColorOption, field: str = "image"
) -> tuple[Image.Image, bytes | None]:
    """A picture in RGB without transparency, and the profile of these values.

    A profile of RGB is kept, or with "srgb" converted. One of grey or CMYK is converted. One that
    is broken, or of other colours than the picture's, is ignored. Conversions are relative
    colorimetric with black point compensation, by LittleCMS.

    Args:
        picture: in any mode of Pillow.
        profile: the picture's ICC profile.
        color: what to do with a profile of RGB.
        field: name of the picture in errors.

    Returns:
        The picture, and its profile; None if the values are sRGB, or nothing says what they are.

    Raises:
        ContractError: the mode's values cannot be converted.
    """
    if profile is None or profile_space(profile) != _space(picture.mode):
        return to_mode(picture, "RGB", field), None
    if kept_profile(picture.mode, profile, color) is not None:
        return to_mode(picture, "RGB", field), profile
    converted = _to_srgb(picture, profile, field)
    return (to_mode(picture, "RGB", field) if converted is None else converted), None


def kept_profile(mode: str, profile: bytes | None, color: ColorOption) -> bytes | None:
    """The profile that the values of :func:`to_rgb` have; None if they are sRGB, or unknown.

    Args:
        mode: Pillow's, of the picture before.
    """
    is_kept = color == "keep" and _space(mode) == "RGB"
    if profile is None or not is_kept or profile_space(profile) != "RGB":
        return None
    return profile


def srgb(picture: Image.Image) -> Image.Image:
    """A PIL picture in sRGB, by the profile in its ``info``."""
    return to_rgb(picture, picture.info.get("icc_profile"), "srgb")[0]


def _space(mode: str) -> ProfileSpace:
    if mode == "CMYK":
        return "CMYK"
    return "GRAY" if mode in _GREY_MODES or mode.startswith("I;16") else "RGB"


def _to_srgb(picture: Image.Image, profile: bytes, field: str) -> Image.Image | None:
    """The picture in sRGB; None if LittleCMS cannot use the profile."""
    if picture.mode != "CMYK":
        picture = to_mode(picture, "L" if _space(picture.mode) == "GRAY" else "RGB", field)
    try:
        return ImageCms.profileToProfile(
            picture,
            ImageCms.ImageCmsProfile(io.BytesIO(plain_profile(profile))),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
