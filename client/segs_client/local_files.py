"""Files of the command line: reading of segments, reading and writing of pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from segs_client.arrays import ByteArray
from segs_client.boxes import FloatBox
from segs_client.contract import DetailRequest
from segs_client.errors import InvalidRequest, contract_checked
from segs_client.messages import refuse_unknown
from segs_client.pictures import open_upright
from segs_client.segs import Segs
from segs_client.unit_floats import mask_levels

log = logging.getLogger("segs_client")

LEAST_SIDE_PX = 10
"""The reference's value; smaller areas count as noise."""
_JPEG_QUALITY = 95
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_WITH_PROFILE = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "JPEG2000")
_WITH_QUALITY = (".jpg", ".jpeg", ".webp")


def segments(
    image: Path, boxes: Sequence[FloatBox], masks: Sequence[Path], options: Mapping[str, Any]
) -> Segs | list[FloatBox]:
    """The segments of a picture: boxes if there are no masks, else SEGS.

    Args:
        image: the picture; read only if there are boxes and masks.
        boxes: half-open pixels.
        masks: pictures whose white areas are segments if their sides are at least
            :data:`LEAST_SIDE_PX`; or opaque areas, see :func:`segs_client.unit_floats.mask_levels`.
        options: the request's, for the crop regions.

    Raises:
        OSError: a file cannot be read.
        InvalidRequest: a box has no area, a mask cannot be read or may mean two things, masks
            differ in size, or ``options`` are not numbers.
    """
    if not masks:
        return list(boxes)
    shared = {
        name: options.get(name, DetailRequest.model_fields[name].default)
        for name in ("crop_factor", "crop_min_size")
    }
    for name, value in shared.items():
        if not isinstance(value, (int, float, type(None))):
            raise InvalidRequest(f"{name}: not a number (got {value!r})", field=name)
    segs = Segs.from_masks([_mask(path) for path in masks], **shared)
    return Segs.from_boxes(boxes, image, **shared).plus(segs) if boxes else segs


@contract_checked()
def _mask(path: Path) -> ByteArray:
    return mask_levels(open_upright(path, str(path)), str(path))


def check_options(options: Mapping[str, Any]) -> None:
    """Refuses unknown options, and options without a resulting picture.

    Raises:
        ValueError: names the option.
    """
    refuse_unknown(options)
    output = options.get("output")
    if isinstance(output, Mapping) and output.get("image") == "none":
        raise ValueError("output.image=none leaves nothing to write")


def check_suffix(path: Path) -> None:
    """Refuses a file name whose format cannot be written.

    Raises:
        ValueError: its suffix is unknown.
    """
    if not can_write(path):
        raise ValueError(f"{path}: no picture format has the suffix {path.suffix!r}")


def can_write(path: PurePath) -> bool:
    """Whether the format of the file's suffix can be written."""
    return _format(path) in Image.SAVE


def _format(path: PurePath) -> str | None:
    """Pillow's name of the format of a file's suffix."""
    return Image.registered_extensions().get(path.suffix.lower())


def save(picture: Image.Image, path: Path) -> None:
    """Writes a picture and the ICC profile in its ``info`` atomically, in the suffix's format.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    profile = picture.info.get("icc_profile")
    if profile and _format(path) not in _WITH_PROFILE:
        log.warning("%s: this format has no colour profile, the picture's is lost", path)
    options: dict[str, Any] = {"icc_profile": profile}
    if path.suffix.lower() in _WITH_QUALITY:
        options["quality"] = _JPEG_QUALITY
    try:
        picture.save(part, **options)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
