"""SEGS from detectors' results, read by their attributes without importing their packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segs_client.arrays import FloatArray, resize_bilinear
from segs_client.boxes import Size, checked_size, outer_box
from segs_client.contract import invalid
from segs_client.errors import contract_checked
from segs_client.segs import Seg, Segs
from segs_client.tools.regions import one_each, overlap, seg_around, whole


@contract_checked()
def from_supervision(
    detections: Any,
    size: Size | None = None,
    *,
    names: Mapping[int, str] | None = None,
    crop_factor: float = 3.0,
    crop_min_size: int | None = None,
) -> Segs:
    """One SEG per detection of a ``supervision.Detections`` or an object with its attributes.

    Boxes are rounded outwards and cut to the picture; detections outside it are skipped. The mask
    is the detection's, or without masks the filled box.

    Args:
        detections: with ``xyxy`` [N, 4], and optionally ``mask`` [N, H, W], ``confidence`` [N],
            ``class_id`` [N] and ``data["class_name"]`` [N]; arrays or torch tensors.
        size: height and width of the picture; required without masks.
        names: the label of each class_id, if the detections have no ``class_name``.
        crop_factor: crop region over box, see :func:`~segs_client.crop_region`.
        crop_min_size: least side of the crop region, px.

    Raises:
        InvalidRequest: no boxes, lists of unequal length, or no size.

    Example:
        >>> class Detections:
        ...     xyxy = np.array([[1.5, 2, 9, 9]])
        ...     data = {"class_name": ["cat"]}
        >>> seg = from_supervision(Detections(), (20, 20))[0]
        >>> seg.bbox, seg.label
        ((1, 2, 9, 9), 'cat')
    """
    boxes = _boxes(getattr(detections, "xyxy", None), "xyxy")
    masks = _array(getattr(detections, "mask", None))
    if masks is not None and size is None:
        size = (masks.shape[1], masks.shape[2])
    if size is None:
        raise invalid("size", "required where the detections have no masks")
    data = getattr(detections, "data", None) or {}
    texts = data.get("class_name")
    if texts is None:
        texts = _named(_array(getattr(detections, "class_id", None)), names)
    return _segs(
        boxes,
        checked_size(size),
        masks=None if masks is None else masks.astype(np.float32),
        labels=texts,
        confidences=_array(getattr(detections, "confidence", None)),
        crop_factor=crop_factor,
        crop_min_size=crop_min_size,
    )


@contract_checked()
def from_ultralytics(
    result: Any, *, crop_factor: float = 3.0, crop_min_size: int | None = None
) -> Segs:
    """One SEG per detection of an Ultralytics ``Results`` or an object with its attributes.

    Boxes are read as by :func:`from_supervision`. Masks may have the network's resolution, with the
    picture scaled to fit and centred in them: the margin is cut off, the rest is resized
    bilinearly, and values of at least 0.5 belong to the mask.

    Args:
        result: with ``orig_shape`` (height, width), ``names`` (the label of each class) and
            ``boxes`` of ``xyxy`` [N, 4], ``conf`` [N] and ``cls`` [N]; and ``masks`` of ``data``
            [N, h, w], or None. Torch tensors or arrays.
        crop_factor: crop region over box, see :func:`~segs_client.crop_region`.
        crop_min_size: least side of the crop region, px.

    Raises:
        InvalidRequest: no boxes, or arrays of unequal length.

    Example:
        >>> from types import SimpleNamespace as Result
        >>> boxes = Result(xyxy=np.array([[1, 2, 9, 9]]), conf=np.array([0.5]), cls=np.array([0.0]))
        >>> result = Result(orig_shape=(20, 20), names={0: "cat"}, boxes=boxes, masks=None)
        >>> seg = from_ultralytics(result)[0]
        >>> seg.label, seg.confidence
        ('cat', 0.5)
    """
    size = checked_size(result.orig_shape[:2])
    if result.boxes is None:
        return Segs(size)
    boxes = _boxes(result.boxes.xyxy, "boxes.xyxy")
    masks = None if result.masks is None else _array(result.masks.data)
    if masks is not None:
        unboxed = [_unboxed(mask, size) for mask in masks.astype(np.float32)]
        masks = np.array(unboxed).reshape(-1, *size)  # also without masks
    return _segs(
        boxes,
        size,
        masks=masks,
        labels=_named(_array(result.boxes.cls), result.names),
        confidences=_array(result.boxes.conf),
        crop_factor=crop_factor,
        crop_min_size=crop_min_size,
    )


def _segs(
    boxes: npt.NDArray[np.float64],
    size: Size,
    *,
    masks: npt.NDArray[Any] | None,
    labels: Sequence[Any] | None,
    confidences: npt.NDArray[Any] | None,
    crop_factor: float,
    crop_min_size: int | None,
) -> Segs:
    texts = one_each("labels", labels, len(boxes), "")
    scores = None if confidences is None else confidences.tolist()
    numbers = one_each("confidence", scores, len(boxes), 1.0)
    if masks is not None and masks.shape != (len(boxes), *size):
        allowed = f"{[len(boxes), *size]}, one per box, of the picture's size"
        raise invalid("mask", "wrong shape", value=list(masks.shape), allowed=allowed)
    found: list[Seg] = []
    for index, edges in enumerate(boxes):
        box = overlap(outer_box(edges), whole(size))
        if box is None:
            continue
        x1, y1, x2, y2 = box
        mask, corner = np.ones((y2 - y1, x2 - x1), np.float32), (x1, y1)
        if masks is not None:
            mask, corner = masks[index], (0, 0)
        seg = seg_around(
            box, mask, corner, size, crop_factor=crop_factor, crop_min_size=crop_min_size,
            label=str(texts[index]), confidence=numbers[index],
        )  # fmt: skip
        found.append(seg)
    return Segs(size, tuple(found))


def _array(value: Any) -> npt.NDArray[Any] | None:
    """An array, or a torch tensor on any device, as an array."""
    if value is None:
        return None
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "cpu") else value)


def _boxes(xyxy: Any, name: str) -> npt.NDArray[np.float64]:
    boxes = _array(xyxy)
    if boxes is None or boxes.ndim != 2 or boxes.shape[1] != 4:
        found = None if boxes is None else list(boxes.shape)
        raise invalid(name, "not boxes", value=found, allowed="[N, 4]: x1, y1, x2, y2")
    if not np.isfinite(boxes).all():
        raise invalid(name, "not finite", allowed="numbers")
    return boxes.astype(np.float64)


def _named(classes: npt.NDArray[Any] | None, names: Mapping[int, str] | None) -> list[str] | None:
    if classes is None or names is None:
        return None
    numbers = [int(number) for number in classes]
    for number in numbers:
        if number not in names:
            allowed = ", ".join(str(known) for known in names)
            raise invalid("names", "lacks a class", value=number, allowed=allowed)
    return [names[number] for number in numbers]


def _unboxed(mask: FloatArray, size: Size) -> FloatArray:
    """A mask of the picture's size, 0 or 1, from a mask [h, w] with the picture scaled to fit and
    centred in it."""
    height, width = mask.shape
    scale = min(height / size[0], width / size[1])
    rows, columns = (max(1, round(side * scale)) for side in size)
    top, left = (height - rows) // 2, (width - columns) // 2
    fitted = mask[top : top + rows, left : left + columns]
    return (resize_bilinear(fitted, *size) >= 0.5).astype(np.float32)
