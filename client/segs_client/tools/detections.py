"""SEGS from what detectors return, read by its attributes without importing their packages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from segs_client.arrays import FloatArray, resize_bilinear
from segs_client.boxes import Size, checked_size
from segs_client.contract import invalid
from segs_client.errors import contract_checked
from segs_client.pictures import Picture, size_of
from segs_client.segs import Segs
from segs_client.tools.detected_boxes import (
    Choice,
    Names,
    box_array,
    detected,
    from_detections,
    given_array,
    named,
    polygon_masks,
)

__all__ = ["from_detections", "from_supervision", "from_ultralytics"]

_FOUND = ("boxes", "obb", "probs")
"""What Ultralytics' results have, or None in its place; their parts have a size too."""
_CORNERS = "xyxyxyxy"
"""Where supervision keeps the corners of oriented boxes."""


@contract_checked()
def from_supervision(
    detections: Any,
    size: Size | Picture | None = None,
    *,
    names: Names | None = None,
    threshold: float | None = None,
    dilation: int = 0,
    drop_size: int = 1,
    labels: str | Collection[str] = "all",
    crop_factor: float = 3.0,
    crop_min_size: int | None = None,
) -> Segs:
    """One SEG per detection of a ``supervision.Detections`` or an object with its attributes.

    Boxes and masks are read as by :func:`~segs_client.tools.from_detections`. The mask of an
    oriented box is the pixels whose centres are inside.

    Args:
        detections: with ``xyxy`` [N, 4], and optionally ``mask`` [N, H, W], ``confidence`` [N],
            ``class_id`` [N], ``data["class_name"]`` [N] and ``data["xyxyxyxy"]`` [N, 4, 2], the
            corners of oriented boxes; arrays or torch tensors. Or a list of one such object.
        size: the picture, or its height and width; required without masks.
        names: the label of each class_id, if the detections have no ``class_name``.
        threshold, dilation, drop_size, labels, crop_factor, crop_min_size: as there.

    Raises:
        InvalidRequest: no such object, no boxes, arrays of unequal length, or no size.

    Example:
        >>> class Detections:
        ...     xyxy = np.array([[1.5, 2, 9, 9]])
        ...     data = {"class_name": ["cat"]}
        >>> seg = from_supervision(Detections(), (20, 20))[0]
        >>> seg.bbox, seg.label
        ((1.5, 2.0, 9.0, 9.0), 'cat')
    """
    detections = _the_one(
        detections, "detections", "xyxy", "supervision.Detections, or a list of one"
    )
    masks = given_array(getattr(detections, "mask", None), "mask")
    if masks is not None and size is None:
        size = (masks.shape[1], masks.shape[2])
    elif size is not None:
        size = size_of(size)
    if size is None:
        raise invalid(
            "size", "required where the detections have no masks", allowed="height and width"
        )
    data = getattr(detections, "data", None) or {}
    corners = given_array(data.get(_CORNERS), _CORNERS)
    if masks is None and corners is not None:
        masks = np.array(polygon_masks(corners, size, _CORNERS)).reshape(-1, *size)
    return from_detections(
        detections.xyxy,
        size,
        mask=masks,
        confidence=getattr(detections, "confidence", None),
        class_id=getattr(detections, "class_id", None),
        class_name=data.get("class_name"),
        names=names,
        threshold=threshold,
        dilation=dilation,
        drop_size=drop_size,
        labels=labels,
        crop_factor=crop_factor,
        crop_min_size=crop_min_size,
    )


@contract_checked()
def from_ultralytics(
    result: Any,
    *,
    threshold: float | None = None,
    dilation: int = 0,
    drop_size: int = 1,
    labels: str | Collection[str] = "all",
    crop_factor: float = 3.0,
    crop_min_size: int | None = None,
) -> Segs:
    """One SEG per detection of an Ultralytics ``Results`` or an object with its attributes.

    Boxes are read as by :func:`~segs_client.tools.from_detections`. Masks may have the network's
    resolution, with the picture scaled to fit and centred in them: the margin is cut off, the rest
    is resized bilinearly, and its edges stay soft (hard ones: ``thresholded``). The mask of an
    oriented box (``obb``) is the pixels whose centres are inside, its box the one around it.

    Args:
        result: with ``orig_shape`` (height, width), ``names`` (the label of each class) and
            ``boxes`` of ``xyxy`` [N, 4], ``conf`` [N] and ``cls`` [N]; and ``masks`` of ``data``
            [N, h, w], or None; or instead of boxes ``obb`` of ``xyxyxyxy`` [N, 4, 2]. Torch tensors
            or arrays. Or a list of one such object, as ``model(picture)`` returns.
        threshold, dilation, drop_size, labels, crop_factor, crop_min_size: as there.

    Raises:
        InvalidRequest: no such object or only a part of one (``result.boxes``), several pictures'
            results, a classification, or arrays of unequal length.

    Example:
        >>> from types import SimpleNamespace as Result
        >>> boxes = Result(xyxy=np.array([[1, 2, 9, 9]]), conf=np.array([0.5]), cls=np.array([0.0]))
        >>> result = Result(orig_shape=(20, 20), names={0: "cat"}, boxes=boxes, masks=None)
        >>> seg = from_ultralytics([result])[0]
        >>> seg.label, seg.confidence
        ('cat', 0.5)
    """
    result = _the_one(
        result, "result", "orig_shape", "an Ultralytics Results with boxes, or a list of one"
    )
    if hasattr(result, "xyxy") or not any(hasattr(result, name) for name in _FOUND):
        kind = type(result).__name__
        allowed = "the Results that it belongs to; arrays of boxes: tools.from_detections"
        raise invalid("result", "a part of a result", value=kind, allowed=allowed)
    size = checked_size(result.orig_shape[:2])
    choice = Choice(threshold, dilation, drop_size, labels, crop_factor, crop_min_size)
    found, oriented = getattr(result, "boxes", None), getattr(result, "obb", None)
    masks: list[FloatArray] | None = None
    if found is None and oriented is not None:
        corners = given_array(oriented.xyxyxyxy, "obb.xyxyxyxy")
        assert corners is not None
        corners = corners.reshape(-1, 4, 2)
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        found, boxes = oriented, box_array(boxes, "obb.xyxyxyxy")
        masks = polygon_masks(corners, size, "obb.xyxyxyxy")
    elif found is not None:
        boxes, masks = box_array(found.xyxy, "boxes.xyxy"), _masks(result, size)
    elif getattr(result, "probs", None) is not None:
        raise invalid("result", "a classification has no boxes", allowed="a result with boxes")
    else:
        return Segs(size)
    if masks is not None and len(masks) != len(boxes):
        raise invalid("masks", f"{len(masks)} given", allowed=f"{len(boxes)}, one per box")
    return detected(
        boxes,
        size,
        choice,
        masks=masks,
        labels=named(given_array(found.cls, "cls"), result.names),
        confidences=given_array(found.conf, "conf"),
    )


def _the_one(given: Any, field: str, attribute: str, allowed: str) -> Any:
    """The object with this attribute, or the only one of a list, or a ContractError."""
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    if len(several) != 1:
        allowed = f"{allowed}; of several pictures, one in each call"
        raise invalid(field, f"{len(several)} of them", allowed=allowed)
    if not hasattr(several[0], attribute):
        allowed = f"{allowed}; arrays of boxes: tools.from_detections"
        kind = type(several[0]).__name__
        raise invalid(field, f"has no {attribute}", value=kind, allowed=allowed)
    return several[0]


def _masks(result: Any, size: Size) -> list[FloatArray] | None:
    masks = getattr(result, "masks", None)
    data: npt.NDArray[Any] | None = None if masks is None else given_array(masks.data, "masks.data")
    if data is None:
        return None
    if data.ndim != 3:
        raise invalid("masks.data", "wrong shape", value=list(data.shape), allowed="[N, h, w]")
    return [_unboxed(mask, size) for mask in data.astype(np.float32)]


def _unboxed(mask: FloatArray, size: Size) -> FloatArray:
    """A mask of the picture's size from a mask [h, w] with the picture scaled to fit and centred
    in it."""
    height, width = mask.shape
    scale = min(height / size[0], width / size[1])
    rows, columns = (max(1, round(side * scale)) for side in size)
    top, left = (height - rows) // 2, (width - columns) // 2
    return resize_bilinear(mask[top : top + rows, left : left + columns], *size)
