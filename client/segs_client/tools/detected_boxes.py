"""SEGS from what a detector found: arrays of boxes, masks, scores and classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from segs_client.arrays import FloatArray
from segs_client.boxes import Box, FloatBox, Size, crop_region
from segs_client.contract import invalid
from segs_client.conversions import as_array, as_number
from segs_client.errors import contract_checked, within
from segs_client.pictures import Picture, size_of
from segs_client.segs import Seg, Segs
from segs_client.tools.coordinates import check_pixels, check_vertices, warn_of_outside
from segs_client.tools.morphology import kernel_dilated_mask
from segs_client.tools.polygons import checked_rings, polygon_mask
from segs_client.tools.regions import grown, moved, one_each, overlap, whole
from segs_client.tools.select import label_test

Names: TypeAlias = Mapping[int, str] | Sequence[str]


@dataclass(frozen=True)
class Choice:
    """Which detections become SEGS, and how; the options of :func:`from_detections`."""

    threshold: float | None
    dilation: int
    drop_size: int
    labels: str | Collection[str]
    crop_factor: float
    crop_min_size: int | None

    def keeps(self, box: FloatBox, label: str, confidence: float) -> bool:
        """Whether a box in float32 is sure and large enough, and has one of the labels."""
        if self.threshold is not None and not np.float32(confidence) > np.float32(self.threshold):
            return False
        x1, y1, x2, y2 = (np.float32(edge) for edge in box)
        if not min(x2 - x1, y2 - y1) > max(self.drop_size, 1):
            return False
        return self.labels == "" or label_test(self.labels)(label)


@contract_checked()
def from_detections(
    xyxy: Any,
    size: Size | Picture,
    *,
    mask: Any = None,
    confidence: Any = None,
    class_id: Any = None,
    class_name: Sequence[str] | None = None,
    names: Names | None = None,
    threshold: float | None = None,
    dilation: int = 0,
    drop_size: int = 1,
    labels: str | Collection[str] = "all",
    crop_factor: float = 3.0,
    crop_min_size: int | None = None,
) -> Segs:
    """One SEG per detected box, by the rules of ComfyUI's detectors.

    Arrays, lists or torch tensors on any device, e.g. of the dictionaries of torchvision, mmdet or
    transformers. The box is kept as found, in float32: its fractions decide the crop region and the
    scale, and it may reach out of the picture; one outside it is left out, with a warning. Without
    masks the mask is the pixels from trunc(x1) to trunc(x2) and from trunc(y1) to trunc(y2),
    **ends included**.
    (Boxes of your own, half-open: ``Segs.from_boxes``.) Soft masks stay soft.

    Args:
        xyxy: [N, 4], x1, y1, x2, y2 in pixels.
        size: the picture, or its height and width.
        mask: [N, H, W] or [N, 1, H, W] of the picture's size, 0..1.
        confidence: [N]; without it, 1.
        class_id: [N]; named by ``names``.
        class_name: [N], the labels, if the classes have no numbers.
        names: the label of each class_id: a mapping, or a list from 0 on.
        threshold: least confidence, itself excluded; None: all.
        dilation: side of the square by which the mask is dilated in the picture, before it is cut
            to the crop region, see :func:`~segs_client.tools.dilated_in_crop`; negative ones have
            no effect here, as in the reference.
        drop_size: both sides of a box must be greater, and greater than 1 px.
        labels: which to keep, see :func:`~segs_client.tools.with_labels`; "": all.
        crop_factor: crop region over box, see :func:`~segs_client.crop_region`.
        crop_min_size: least side of the crop region, px.

    Raises:
        InvalidRequest: no boxes of this form, boxes in 0..1, arrays of unequal length, masks of
            another size, or a class without a name.
        OSError: the picture's path cannot be read.

    Example:
        >>> found = {"boxes": np.array([[10.25, 8, 30.5, 40]]), "scores": np.array([0.75])}
        >>> seg = from_detections(found["boxes"], (96, 128), confidence=found["scores"])[0]
        >>> seg.bbox, seg.crop_region, int(seg.mask.sum())
        ((10.25, 8.0, 30.5, 40.0), (0, 0, 60, 96), 693)
    """
    size = size_of(size)
    boxes = box_array(xyxy, "xyxy")
    if class_name is None:
        class_name = named(given_array(class_id, "class_id"), names)
    choice = Choice(threshold, dilation, drop_size, labels, crop_factor, crop_min_size)
    masks = _whole_masks(given_array(mask, "mask"), len(boxes), size)
    return detected(
        boxes,
        size,
        choice,
        masks=masks,
        labels=class_name,
        confidences=given_array(confidence, "confidence"),
    )


def detected(
    boxes: npt.NDArray[np.float32],
    size: Size,
    choice: Choice,
    *,
    masks: Sequence[FloatArray] | None,
    labels: Sequence[Any] | None,
    confidences: npt.NDArray[Any] | None,
) -> Segs:
    """The SEGS of :func:`from_detections`, of arrays that are checked but for their lengths."""
    texts = one_each("labels", labels, len(boxes), "")
    scores = None if confidences is None else list(confidences.reshape(-1))
    given = one_each("confidence", scores, len(boxes), 1.0)
    numbers = [as_number(each, f"confidence.{index}") for index, each in enumerate(given)]
    found: list[Seg] = []
    outside = 0
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        box, label, score = (x1, y1, x2, y2), str(texts[index]), numbers[index]
        if not choice.keeps(box, label, score):
            continue
        if overlap(box, whole(size)) is None:
            outside += 1
            continue
        region = crop_region(box, size, choice.crop_factor, choice.crop_min_size)
        if masks is None:
            lies_in = _ends_included(box)
            mask = np.ones((lies_in[3] - lies_in[1], lies_in[2] - lies_in[0]), np.float32)
        else:
            lies_in, mask = whole(size), masks[index]
        cut = _dilated(mask, lies_in, region, size, choice.dilation)
        with within(f"detections.{index}", label):
            found.append(Seg(cut, box, region, confidence=score, label=label))
    warn_of_outside(outside, len(boxes), "boxes are outside", size)
    return Segs(size, tuple(found))


def given_array(value: Any, name: str) -> npt.NDArray[Any] | None:
    """:func:`~segs_client.conversions.as_array` of what may be left out."""
    return None if value is None else as_array(value, name)


def box_array(xyxy: Any, name: str) -> npt.NDArray[np.float32]:
    """Boxes as float32 [N, 4], or a ContractError with ``name``."""
    boxes = given_array(xyxy, name)
    if boxes is not None and boxes.size == 0:
        return np.empty((0, 4), np.float32)
    if boxes is None or boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iuf":
        found = None if boxes is None else list(boxes.shape)
        raise invalid(name, "not boxes", value=found, allowed="[N, 4]: x1, y1, x2, y2")
    if not np.isfinite(boxes).all():
        raise invalid(name, "not finite", allowed="numbers")
    check_pixels(boxes, name)
    backwards = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if backwards.any():
        index = int(backwards.argmax())
        allowed = "x1, y1, x2, y2 with x1 ≤ x2 and y1 ≤ y2, not a width and height"
        raise invalid(f"{name}.{index}", "not a box", value=boxes[index].tolist(), allowed=allowed)
    return boxes.astype(np.float32)


def named(classes: npt.NDArray[Any] | None, names: Names | None) -> list[str] | None:
    """The names of classes [N]; None where there are no names, or a ContractError."""
    if classes is None or names is None:
        return None
    known = names if isinstance(names, Mapping) else dict(enumerate(names))
    given = enumerate(classes.reshape(-1))
    numbers = [int(as_number(each, f"class_id.{index}")) for index, each in given]
    for number in numbers:
        if number not in known:
            allowed = ", ".join(str(each) for each in known)
            raise invalid("names", "lacks a class", value=number, allowed=allowed)
    return [known[number] for number in numbers]


def polygon_masks(corners: npt.NDArray[Any], size: Size, name: str) -> list[FloatArray]:
    """The masks [H, W] of polygons [N, K, 2] of x, y: the pixels whose centres are inside."""
    rings = checked_rings(list(corners), name)
    check_vertices(rings, name)
    return [polygon_mask([ring], size, "union").astype(np.float32) for ring in rings]


def _whole_masks(masks: npt.NDArray[Any] | None, count: int, size: Size) -> list[FloatArray] | None:
    if masks is None:
        return None
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.shape != (count, *size) and (count or masks.size):
        allowed = f"{[count, *size]}, one per box, of the picture's size"
        raise invalid("mask", "wrong shape", value=list(masks.shape), allowed=allowed)
    return list(masks.astype(np.float32))


def _ends_included(box: FloatBox) -> Box:
    """The pixels of a detected box, by the reference's rule: those of both its ends too."""
    x1, y1, x2, y2 = (int(edge) for edge in box)
    return x1, y1, x2 + 1, y2 + 1


def _dilated(mask: FloatArray, lies_in: Box, region: Box, size: Size, dilation: int) -> FloatArray:
    """A mask's part in ``region`` after a dilation in the picture."""
    reach = max(dilation, 0)
    around = overlap(grown(region, reach), whole(size)) or region
    inside = kernel_dilated_mask(moved(mask, lies_in, around), reach)
    return moved(inside, around, region)
