"""Files of the command line: reading of segments, reading and writing of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from segs_client.boxes import FloatBox
from segs_client.contract import DetailRequest
from segs_client.errors import InvalidRequest
from segs_client.messages import refuse_unknown
from segs_client.pictures import to_mode
from segs_client.segs import Segs

LEAST_SIDE_PX = 10
"""The reference's value; smaller areas count as noise."""
_JPEG_QUALITY = 95
_WITH_QUALITY = (".jpg", ".jpeg", ".webp")


def segments(
    image: Path, boxes: Sequence[FloatBox], masks: Sequence[Path], options: Mapping[str, Any]
) -> Segs | list[FloatBox]:
    """The segments of a picture: boxes if there are no masks, else SEGS.

    Args:
        image: the picture; read only if there are boxes and masks.
        boxes: half-open pixels.
        masks: pictures whose white areas are segments if their sides are at least
            :data:`LEAST_SIDE_PX`.
        options: the request's, for the crop regions.

    Raises:
        OSError: a file cannot be read.
        InvalidRequest: a box has no area, masks differ in size, or ``options`` are not numbers.
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
    segs = Segs.from_masks([np.asarray(to_mode(opened(path), "L")) for path in masks], **shared)
    if not boxes:
        return segs
    picture = opened(image)
    return Segs.from_boxes(boxes, (picture.height, picture.width), **shared).plus(segs)


def opened(path: Path) -> Image.Image:
    """A picture with its EXIF orientation applied.

    Raises:
        OSError: it cannot be read.
    """
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture)


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
    known = Image.registered_extensions()
    if known.get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"{path}: no picture format has the suffix {path.suffix!r}")


def save(picture: Image.Image, path: Path) -> None:
    """Writes a picture atomically in the format of the suffix.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    quality: dict[str, Any] = {}
    if path.suffix.lower() in _WITH_QUALITY:
        quality = {"quality": _JPEG_QUALITY}
    try:
        picture.save(part, **quality)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
