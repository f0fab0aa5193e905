"""SEGS, the segments of a picture, made from boxes or masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from segs_client.arrays import FloatArray
from segs_client.boxes import (
    Box,
    Boxes,
    FloatBox,
    Size,
    check_overlap,
    checked_box,
    checked_region,
    checked_size,
    crop_region,
    outer_box,
    window,
)
from segs_client.contours import filled_regions
from segs_client.contract import SegOptions, invalid
from segs_client.conversions import as_number
from segs_client.errors import contract_checked, within
from segs_client.pictures import Picture, size_of
from segs_client.unit_floats import as_unit_floats

__all__ = ["Box", "Boxes", "FloatBox", "Seg", "Segs", "Size", "crop_region"]


@dataclass(frozen=True, eq=False)
class Seg:
    """One segment of a picture.

    Attributes:
        mask: float32 [h, w], 0..1, of the crop region's size: the pixels to be redrawn.
        bbox: x1, y1, x2, y2 in pixels, half-open; its size decides the scale. Ints or floats,
            as given; it may reach out of the picture. Its sides have a pixel at least.
        crop_region: x1, y1, x2, y2 in whole pixels, half-open: the input of the network.
        confidence: of the detector.
        label: free text.
        image: float32 [h, w, 3], 0..1: a crop used instead of cutting the picture; or None.
        options: of this segment instead of the request's: fields of
            :class:`~segs_client.contract.SegOptions`, such as ``{"prompt": "blue eyes"}``.

    Other masks and images are converted, see :func:`segs_client.unit_floats.as_unit_floats`. The
    arrays are read-only copies.

    Raises:
        InvalidRequest: wrong shape, dtype or values, or a box without area.

    Example:
        >>> seg = Seg(mask=np.ones((40, 30)), bbox=(5, 5, 20, 30), crop_region=(0, 0, 30, 40))
        >>> seg.mask.dtype
        dtype('float32')
    """

    mask: FloatArray
    bbox: FloatBox
    crop_region: Box
    confidence: float = 1.0
    label: str = ""
    image: FloatArray | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @contract_checked()
    def __post_init__(self) -> None:
        bbox = checked_box(self.bbox, "bbox")
        region = checked_region(self.crop_region, "crop_region")
        mask = as_unit_floats(self.mask, "mask", 2)
        expected = (region[3] - region[1], region[2] - region[0])
        if mask.shape != expected:
            allowed = f"{list(expected)}, the size of crop_region {list(region)}"
            raise invalid("mask", "wrong shape", value=list(mask.shape), allowed=allowed)
        image = None if self.image is None else as_unit_floats(self.image, "image", 3)
        unknown = sorted(self.options.keys() - SegOptions.model_fields.keys())
        if unknown:
            allowed = ", ".join(SegOptions.model_fields)
            raise invalid(f"options.{unknown[0]}", "unknown option", allowed=allowed)
        for name, value in (
            ("mask", mask),
            ("bbox", bbox),
            ("crop_region", region),
            ("image", image),
            ("confidence", as_number(self.confidence, "confidence")),
            ("options", MappingProxyType(dict(self.options))),
        ):
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class Segs:
    """The segments of one picture.

    Attributes:
        size: height and width that the pixels refer to. A picture of another size scales them.
        items: the segments, in the order in which they are redrawn.

    Example:
        >>> segs = Segs.from_boxes([(10, 10, 50, 60)], size=(480, 640))
        >>> len(segs), segs[0].crop_region
        (1, (0, 0, 120, 150))
    """

    size: Size
    items: tuple[Seg, ...] = ()

    @contract_checked()
    def __post_init__(self) -> None:
        object.__setattr__(self, "size", checked_size(self.size))
        items: tuple[Any, ...] = tuple(self.items)
        for index, item in enumerate(items):
            if not isinstance(item, Seg):
                kind, allowed = type(item).__name__, "a Seg; Impact Pack's: tools.from_impact_pack"
                raise invalid(f"items.{index}", "not a Seg", value=kind, allowed=allowed)
        object.__setattr__(self, "items", items)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Seg]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Seg:
        return self.items[index]

    @classmethod
    @contract_checked()
    def from_boxes(
        cls,
        boxes: Boxes,
        size: Size | Picture,
        crop_factor: float = 3.0,
        crop_min_size: int | None = None,
        labels: Sequence[str] | None = None,
        confidences: Sequence[float] | None = None,
    ) -> Segs:
        """One SEG per box; its mask is the filled box: the pixels that the box touches.

        Args:
            boxes: x1, y1, x2, y2 in pixels, half-open, whole or with fractions; a list, or an array
                [N, 4]. A box may reach out of the picture.
            size: the picture, or its height and width. (PIL's ``size`` is width and height.)
            crop_factor: crop region over box, see :func:`crop_region`.
            crop_min_size: least side of the crop region, px.
            labels: one per box.
            confidences: one per box.

        Raises:
            InvalidRequest: a box without area or outside the picture, lists of unequal length.
            OSError: the picture's path cannot be read.

        Example:
            >>> Segs.from_boxes([(0, 0, 10, 10)], (100, 100), labels=["face"])[0].mask.shape
            (30, 30)
        """
        texts = [""] * len(boxes) if labels is None else labels
        numbers = [1.0] * len(boxes) if confidences is None else confidences
        for name, values in (("labels", texts), ("confidences", numbers)):
            if len(values) != len(boxes):
                raise invalid(name, f"{len(values)} given", allowed=f"{len(boxes)}, one per box")
        size = height, width = size_of(size)
        items = []
        for index, (box, label, confidence) in enumerate(zip(boxes, texts, numbers, strict=True)):
            bbox = checked_box(box, f"boxes.{index}")
            check_overlap(bbox, (height, width), f"boxes.{index}")
            region = crop_region(bbox, size, crop_factor, crop_min_size)
            score = as_number(confidence, f"confidences.{index}")
            items.append(Seg(box_mask(bbox, region), bbox, region, confidence=score, label=label))
        return cls(size, tuple(items))

    @classmethod
    @contract_checked()
    def from_mask(
        cls,
        mask: npt.ArrayLike,
        *,
        combined: bool = False,
        crop_factor: float = 3.0,
        bbox_fill: bool = False,
        drop_size: int = 10,
        contour_fill: bool = True,
        crop_min_size: int | None = None,
        label: str = "",
    ) -> Segs:
        """SEGS of a whole picture's mask: one per outer contour, or one for all.

        A pixel belongs to a contour if its value is at least 1/255. Contours are in reverse reading
        order, as in the reference.

        Args:
            mask: [H, W], see :func:`segs_client.unit_floats.as_unit_floats`.
            combined: one SEG for the whole mask, with its values. As in the reference, the box ends
                one pixel before the last foreground row and column.
            crop_factor: crop region over box, see :func:`crop_region`.
            bbox_fill: the mask is the filled box. With ``combined``, the mask's values are kept; as
                in the reference, the box is filled at its picture coordinates counted from the
                crop's corner, which is right only if the crop region starts at 0, 0.
            drop_size: contours with a side below this many pixels are dropped; without effect on a
                combined SEG.
            contour_fill: true: the mask is 1 inside the contour and its holes; false: it has the
                values of ``mask`` there. Without effect on a combined SEG.
            crop_min_size: least side of the crop region, px.
            label: of every SEG.

        Raises:
            InvalidRequest: not such a mask.

        Example:
            >>> mask = np.zeros((100, 100), np.float32)
            >>> mask[20:60, 30:70] = 1
            >>> Segs.from_mask(mask, crop_factor=1)[0].bbox
            (30, 20, 70, 60)
        """
        values = as_unit_floats(mask, "mask", 2)
        size = checked_size(values.shape)
        foreground = np.trunc(values * np.float32(255)) > 0
        found = []
        if combined:
            box = _combined_box(foreground)
            if box is not None:
                region = crop_region(box, size, crop_factor, crop_min_size)
                crop = values[window(region)].copy()
                if bbox_fill:
                    crop[box[1] : box[3], box[0] : box[2]] = 1
                found.append(Seg(crop, box, region, label=label))
            return cls(size, tuple(found))

        regions = filled_regions(foreground)
        sides = regions.boxes[:, 2:] - regions.boxes[:, :2]
        for index in np.flatnonzero((sides >= drop_size).all(axis=1))[::-1]:
            x1, y1, x2, y2 = (int(value) for value in regions.boxes[index])
            box = (x1, y1, x2, y2)
            region = crop_region(box, size, crop_factor, crop_min_size)
            inside = regions.labels[window(region)] == index + 1
            if bbox_fill:
                crop = box_mask(box, region)
            elif contour_fill:
                crop = inside.astype(np.float32)
            else:
                crop = np.where(inside, values[window(region)], np.float32(0))
            found.append(Seg(crop, box, region, label=label))
        return cls(size, tuple(found))

    @classmethod
    @contract_checked()
    def from_masks(
        cls,
        masks: Sequence[npt.ArrayLike],
        *,
        combined: bool = False,
        crop_factor: float = 3.0,
        bbox_fill: bool = False,
        drop_size: int = 10,
        contour_fill: bool = True,
        crop_min_size: int | None = None,
        labels: Sequence[str] | None = None,
    ) -> Segs:
        """The SEGS of several masks of one picture, one mask after another.

        Args: as :meth:`from_mask`; ``labels`` has one entry per mask.

        Raises:
            InvalidRequest: no mask, masks of unequal size, or labels of another number.

        Example:
            >>> Segs.from_masks([np.ones((50, 50)), np.zeros((50, 50))], labels=["a", "b"])[0].label
            'a'
        """
        texts = [""] * len(masks) if labels is None else labels
        if len(masks) == 0 or len(texts) != len(masks):
            raise invalid(
                "masks",
                f"{len(masks)} masks and {len(texts)} labels",
                allowed="at least one mask, one label per mask",
            )
        parts = []
        for index, (mask, label) in enumerate(zip(masks, texts, strict=True)):
            with within(f"masks.{index}", label, {"mask": ""}):
                part = cls.from_mask(
                    mask,
                    combined=combined,
                    crop_factor=crop_factor,
                    bbox_fill=bbox_fill,
                    drop_size=drop_size,
                    contour_fill=contour_fill,
                    crop_min_size=crop_min_size,
                    label=label,
                )
            parts.append(part)
        return parts[0].plus(*parts[1:])

    @contract_checked()
    def plus(self, *others: Segs) -> Segs:
        """These SEGS followed by those of ``others``, which must have the same size."""
        for other in others:
            if other.size != self.size:
                allowed = f"{list(self.size)}, height and width of the others"
                raise invalid("size", "unequal", value=list(other.size), allowed=allowed)
        return Segs(self.size, self.items + tuple(seg for other in others for seg in other.items))


def _combined_box(foreground: npt.NDArray[np.bool_]) -> Box | None:
    rows, columns = (np.flatnonzero(foreground.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    x1, x2 = int(columns[0]), int(columns[-1])
    y1, y2 = int(rows[0]), int(rows[-1])
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def box_mask(box: FloatBox, region: Box) -> FloatArray:
    """A mask of ``region``'s size [h, w] that is 1 where ``box`` touches a pixel, 0 elsewhere."""
    x1, y1, x2, y2 = region
    mask = np.zeros((y2 - y1, x2 - x1), np.float32)
    left, top, right, bottom = (
        max(edge - corner, 0) for edge, corner in zip(outer_box(box), (x1, y1, x1, y1), strict=True)
    )
    mask[top:bottom, left:right] = 1
    return mask
