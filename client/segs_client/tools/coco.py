"""SEGS from COCO annotations and results.

The formats are those of https://cocodataset.org/#format-data and of the COCO API
(https://github.com/cocodataset/cocoapi, simplified BSD licence), whose ``maskApi`` describes the
run lengths and their string form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from segs_client.boxes import FloatBox, Size, checked_size, outer_box
from segs_client.contract import invalid
from segs_client.conversions import as_number
from segs_client.errors import contract_checked, within
from segs_client.pictures import Picture, size_of
from segs_client.segs import Seg, Segs
from segs_client.tools.coco_documents import Categories, Source, picture_part
from segs_client.tools.coordinates import (
    check_pixels,
    check_vertices,
    warn_of_no_area,
    warn_of_outside,
)
from segs_client.tools.polygons import NO_PIXEL, checked_rings, polygon_mask
from segs_client.tools.regions import mask_box, overlap, seg_around, whole

_Bbox: TypeAlias = tuple[float, float, float, float]
_Outline: TypeAlias = Mapping[str, Any] | list[npt.NDArray[Any]] | _Bbox
"""Of an annotation: its run lengths, or rings of vertices [n, 2], or x, y, width and height."""


@contract_checked()
def from_coco(
    annotations: Source,
    size: Size | Picture | None = None,
    *,
    image_id: int | str | None = None,
    categories: Categories | None = None,
    crop_factor: float = 3.0,
    crop_min_size: int | None = None,
) -> Segs:
    """One SEG per annotation (or result) of one picture.

    The mask is the ``segmentation``: polygons (their union; a pixel belongs to it if its centre is
    inside, while the COCO API also includes some pixels of the edge), or run lengths, plain or
    compressed. The box is that of the mask. Without a segmentation, the box is the ``bbox`` with
    its fractions, and the mask the pixels that it touches. Annotations without a pixel in the
    picture are left out, with a warning if they have polygons or a box.

    Args:
        annotations: dictionaries with ``segmentation`` or ``bbox`` (x, y, width, height),
            ``category_id``, and optionally ``score`` (the confidence; default 1); or a whole COCO
            document, a dictionary with ``images``, ``annotations`` and ``categories``; or the path
            of a JSON file of either.
        size: the picture, or its height and width; a document has it.
        image_id: which picture's annotations are taken, by its id, or in a document also by its
            file name; required where there are several.
        categories: the label of each ``category_id``, or COCO's list of dictionaries with ``id``
            and ``name``; without it the document's, or else labels are empty.
        crop_factor: crop region over box, see :func:`~segs_client.crop_region`.
        crop_min_size: least side of the crop region, px.

    Raises:
        InvalidRequest: a malformed annotation or document, run lengths of another size, an unknown
            category or picture, boxes or polygons in 0..1, or several pictures and no ``image_id``.
        OSError: the path cannot be read.

    Example:
        >>> cat = {"category_id": 17, "score": 0.5, "segmentation": [[2, 2, 8, 2, 8, 8, 2, 8]]}
        >>> segs = from_coco([cat], (10, 10), categories={17: "cat"})
        >>> segs[0].label, segs[0].bbox, segs[0].confidence
        ('cat', (2, 2, 8, 8), 0.5)
        >>> document = {
        ...     "images": [{"id": 7, "file_name": "cat.png", "height": 10, "width": 10}],
        ...     "annotations": [{**cat, "image_id": 7}],
        ...     "categories": [{"id": 17, "name": "cat"}],
        ... }
        >>> from_coco(document)[0].label
        'cat'
    """
    known = None if size is None else size_of(size)
    part = picture_part(annotations, known, image_id, categories)
    size = part.size
    outlines = [_outline(annotation, name) for name, annotation in part.annotations]
    boxes = [each for each in outlines if isinstance(each, tuple)]
    polygons = [each for each in outlines if isinstance(each, list)]
    check_pixels(np.array(boxes), "annotations.bbox")
    check_vertices([ring for rings in polygons for ring in rings], "annotations.segmentation")
    found: list[Seg] = []
    flat = outside = unseen = 0
    for (name, annotation), outline in zip(part.annotations, outlines, strict=True):
        mask, corner = _mask(outline, size, name)
        label = _label(annotation, part.categories, name)
        score = as_number(annotation.get("score", 1.0), f"{name}.score")
        if isinstance(outline, tuple) and min(outline[2:]) <= 0:
            flat += 1
            continue
        box: FloatBox | None = mask_box(mask, corner)
        if box is None:
            outside += isinstance(outline, tuple)
            unseen += isinstance(outline, list)
            continue
        if isinstance(outline, tuple):
            box = _edges(outline)
        with within(name, label):
            seg = seg_around(
                box, mask, corner, size, crop_factor=crop_factor, crop_min_size=crop_min_size,
                label=label, confidence=score,
            )  # fmt: skip
        found.append(seg)
    warn_of_no_area(flat, len(boxes))
    warn_of_outside(outside, len(boxes), "boxes are outside", size)
    warn_of_outside(unseen, len(polygons), NO_PIXEL, size)
    return Segs(size, tuple(found))


@contract_checked()
def decode_rle(rle: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """The mask [H, W] of COCO's run lengths.

    Args:
        rle: ``size``: height and width; ``counts``: the lengths of the runs of 0 and 1, beginning
            with 0, by columns: a list, or COCO's string of it.

    Raises:
        InvalidRequest: not run lengths, or not of this size.

    Example:
        >>> decode_rle({"size": [2, 3], "counts": [1, 2, 3]}).astype(int)
        array([[0, 1, 0],
               [1, 0, 0]])
    """
    return _decoded(rle, "rle")


def _decoded(rle: Mapping[str, Any], name: str) -> npt.NDArray[np.bool_]:
    height, width = checked_size(rle.get("size", ()))
    counts = rle.get("counts")
    if isinstance(counts, (str, bytes)):
        counts = _uncompressed(counts, f"{name}.counts")
    allowed = f"lengths from 0 on, {height * width} in all"
    try:
        lengths = np.asarray(counts, np.int64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        raise invalid(f"{name}.counts", "not run lengths", value=counts, allowed=allowed) from None
    if (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise invalid(f"{name}.counts", f"{lengths.sum()} pixels", allowed=allowed)
    is_inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(is_inside, lengths).reshape(width, height).T


def _uncompressed(text: str | bytes, name: str) -> list[int]:
    """The run lengths in COCO's string form.

    A number is written as groups of 5 bits, the lowest first, each as the character of code 48 +
    group, plus 32 if more follow; the last group's highest bit is the sign. From the fourth
    number on, the difference to the number two before is written.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text.encode() if isinstance(text, str) else text:
        group = character - 48
        if not 0 <= group < 64 or shift > 60:
            raise invalid(name, "not COCO's run lengths", value=text, allowed="a string of them")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise invalid(name, "ends in the middle of a number", allowed="a whole string")
    return counts


def _outline(annotation: Mapping[str, Any], name: str) -> _Outline:
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, Mapping):
        return segmentation
    if segmentation:
        return _rings(segmentation, f"{name}.segmentation")
    return _bbox(annotation, name)


def _mask(
    outline: _Outline, size: Size, name: str
) -> tuple[npt.NDArray[np.bool_], tuple[int, int]]:
    """The mask [h, w], and the position x, y of its first pixel."""
    if isinstance(outline, Mapping):
        mask = _decoded(outline, f"{name}.segmentation")
        if mask.shape != size:
            found = list(mask.shape)
            raise invalid(f"{name}.segmentation.size", "not the picture's", value=found,
                          allowed=f"{list(size)}")  # fmt: skip
        return mask, (0, 0)
    if isinstance(outline, list):
        return polygon_mask(outline, size, "union"), (0, 0)
    x1, y1, x2, y2 = overlap(outer_box(_edges(outline)), whole(size)) or (0, 0, 0, 0)
    return np.ones((y2 - y1, x2 - x1), bool), (x1, y1)


def _rings(polygons: Any, name: str) -> list[npt.NDArray[Any]]:
    """COCO's x, y, x, y, … as rings of vertices [n, 2]."""
    rings = []
    for index, polygon in enumerate(polygons):
        try:
            rings.append(np.asarray(polygon).reshape(-1, 2))
        except (TypeError, ValueError):
            allowed = "polygons x, y, x, y, …"
            raise invalid(
                f"{name}.{index}", "not a polygon", value=polygon, allowed=allowed
            ) from None
    return checked_rings(rings, name)


def _bbox(annotation: Mapping[str, Any], name: str) -> _Bbox:
    bbox: Any = annotation.get("bbox")
    try:
        x, y, width, height = (each if isinstance(each, int) else float(each) for each in bbox)
        outer_box((x, y, x + width, y + height))  # raises if a number is not finite
    except (TypeError, ValueError, OverflowError):
        allowed = "x, y, width, height in pixels, or a segmentation"
        raise invalid(f"{name}.bbox", "not a box", value=bbox, allowed=allowed) from None
    return x, y, width, height


def _edges(bbox: _Bbox) -> FloatBox:
    """x1, y1, x2, y2; of a side below a pixel, those of the pixels that it touches."""
    x, y, width, height = bbox
    box = (x, y, x + width, y + height)
    return box if min(width, height) >= 1 else outer_box(box)


def _label(annotation: Mapping[str, Any], categories: Mapping[int, str] | None, name: str) -> str:
    if categories is None:
        return ""
    category: Any = annotation.get("category_id")
    if category not in categories:
        allowed = ", ".join(str(known) for known in categories)
        raise invalid(f"{name}.category_id", "unknown", value=category, allowed=allowed)
    return categories[category]
