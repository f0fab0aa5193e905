"""Hints for what is given in place of SEGS: what it is, and what makes SEGS of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from PIL import Image

_COCO = "tools.from_coco"
_SUFFIXES = {".json": _COCO, ".npz": "tools.load"}
_DETECTED_COLUMNS = range(5, 8)
"""Of a detector's rows: a box, its confidence, its class, and the number of its track."""


class Hint(NamedTuple):
    """What a value is, and the function that makes SEGS of it."""

    what: str
    maker: str


def hint_for(given: Any) -> Hint | None:
    """The hint for a value that is no SEGS; None if it is not known, or may be boxes.

    Example:
        >>> hint_for({"images": [], "annotations": [], "categories": []})
        Hint(what='a COCO document', maker='tools.from_coco')
    """
    if isinstance(given, (str, PurePath)):
        suffix = PurePath(given).suffix.lower()
        return Hint("a path", _SUFFIXES.get(suffix, "Segs.from_mask, of a file with a mask,"))
    if isinstance(given, Image.Image):
        return Hint("a picture", "Segs.from_mask")
    found = _of_object(given)
    if found is None and isinstance(given, Sequence) and given:
        if _is_impact_pack(given) or (len(given) == 1 and _is_impact_pack(given[0])):
            return Hint("a size and a list", "tools.from_impact_pack")
        found = _of_object(given[0])
    return found or _of_numbers(given)


def _of_object(given: Any) -> Hint | None:
    """By its fields, which a mapping has as keys; of a list, of its first item."""

    def has(*names: str) -> bool:
        if isinstance(given, Mapping):
            return any(name in given for name in names)
        return any(hasattr(given, name) for name in names)

    if has("cropped_mask"):
        return Hint("SEGs of Impact Pack", "tools.from_impact_pack")
    if has("crop_region"):
        return Hint("a Seg without the picture's size", "Segs(size, [seg, …])")
    if has("annotations"):
        return Hint("a COCO document", _COCO)
    if has("segmentation", "bbox"):
        return Hint("COCO annotations", _COCO)
    if has("orig_shape"):
        return Hint("results of Ultralytics", "tools.from_ultralytics")
    if isinstance(given, Mapping):
        is_detected = has("boxes", "bboxes", "xyxy")
        return Hint("a detector's dict", "tools.from_detections") if is_detected else None
    if has("xyxy"):
        return Hint("detections", "tools.from_supervision")
    return None


def _is_impact_pack(given: Any) -> bool:
    """Whether it is (height, width) and a list."""
    parts = (list, tuple)
    return (
        isinstance(given, parts)
        and len(given) == 2
        and isinstance(given[0], parts)
        and len(given[0]) == 2
        and isinstance(given[1], parts)
    )


def _of_numbers(given: Any) -> Hint | None:
    shape = _shape(given)
    if len(shape) == 2 and shape[1] in _DETECTED_COLUMNS:
        maker = "tools.from_detections(rows[:, :4], picture, confidence=rows[:, 4])"
        return Hint(f"rows of {shape[1]} numbers", maker)
    if len(shape) in (3, 4) and shape[-1] == 2:
        return Hint("polygons", "tools.from_polygons")
    if hasattr(given, "shape") and len(shape) == 2 and shape[1] > _DETECTED_COLUMNS[-1]:
        return Hint("a mask", "Segs.from_mask")
    if hasattr(given, "shape") and len(shape) == 3:
        return Hint("masks", "Segs.from_masks")
    return None


def _shape(given: Any) -> tuple[int, ...]:
    """Of an array, or of nested lists by their first items."""
    if hasattr(given, "shape"):
        return tuple(given.shape)
    if not isinstance(given, (list, tuple)) or not given:
        return ()
    return len(given), *_shape(given[0])
