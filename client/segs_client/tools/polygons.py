"""SEGS from polygons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from segs_client.boxes import Size
from segs_client.contract import invalid
from segs_client.conversions import as_number
from segs_client.errors import contract_checked
from segs_client.pictures import Picture, size_of
from segs_client.segs import Seg, Segs
from segs_client.tools.coordinates import check_vertices, warn_of_outside
from segs_client.tools.regions import mask_box, one_each, seg_around

Ring: TypeAlias = Sequence[Sequence[float]] | npt.NDArray[np.float64]
Rule: TypeAlias = Literal["even-odd", "union"]

NO_PIXEL = "polygons have no pixel in"
"""Of polygons that are left out: they are outside the picture, or too thin for a pixel's centre."""


@contract_checked()
def from_polygons(
    objects: Sequence[Sequence[Ring]],
    size: Size | Picture,
    *,
    rule: Rule = "even-odd",
    crop_factor: float = 3.0,
    crop_min_size: int | None = None,
    labels: Sequence[str] | None = None,
    confidences: Sequence[float] | None = None,
) -> Segs:
    """One SEG per object; an object is one or more closed rings.

    A pixel belongs to the object if its centre is inside. The box is that of these pixels; objects
    without a pixel in the picture are left out, with a warning.

    Args:
        objects: per object its rings, per ring its vertices x, y in pixels (a pixel's centre is at
            half-integers); at least three, the last joined to the first.
        size: the picture, or its height and width; parts outside are cut off.
        rule: "even-odd": inside an odd number of rings, so that a ring in a ring is a hole;
            "union": inside any of the rings.
        crop_factor: crop region over box, see :func:`~segs_client.crop_region`.
        crop_min_size: least side of the crop region, px.
        labels: one per object.
        confidences: one per object.

    Raises:
        InvalidRequest: not such rings, vertices in 0..1, or lists of unequal length.
        OSError: the picture's path cannot be read.

    Example:
        >>> square, hole = [[2, 2], [8, 2], [8, 8], [2, 8]], [[4, 4], [6, 4], [6, 6], [4, 6]]
        >>> segs = from_polygons([[square, hole]], (10, 10), crop_factor=1)
        >>> segs[0].bbox, int(segs[0].mask.sum())
        ((2, 2, 8, 8), 32)
    """
    size = size_of(size)
    texts = one_each("labels", labels, len(objects), "")
    numbers = one_each("confidences", confidences, len(objects), 1.0)
    if rule not in ("even-odd", "union"):
        raise invalid("rule", "unknown", value=rule, allowed="'even-odd', 'union'")
    checked = [checked_rings(rings, f"objects.{index}") for index, rings in enumerate(objects)]
    check_vertices([ring for rings in checked for ring in rings], "objects")
    found: list[Seg] = []
    outside = 0
    for index, (rings, label) in enumerate(zip(checked, texts, strict=True)):
        mask = polygon_mask(rings, size, rule)
        box = mask_box(mask, (0, 0))
        if box is None:
            outside += bool(rings)
            continue
        seg = seg_around(
            box, mask, (0, 0), size, crop_factor=crop_factor, crop_min_size=crop_min_size,
            label=label, confidence=as_number(numbers[index], f"confidences.{index}"),
        )  # fmt: skip
        found.append(seg)
    warn_of_outside(outside, len(checked), NO_PIXEL, size)
    return Segs(size, tuple(found))


def checked_rings(rings: Sequence[Ring], name: str) -> list[npt.NDArray[Any]]:
    """An object's rings as arrays [n, 2] of their own type, or a ContractError with ``name``."""
    return [_checked_ring(ring, f"{name}.{index}") for index, ring in enumerate(rings)]


def polygon_mask(
    rings: Sequence[npt.NDArray[Any]], size: Size, rule: Rule
) -> npt.NDArray[np.bool_]:
    """The pixels [H, W] whose centres are in the rings, which are checked."""
    inside = np.zeros(size, bool)
    for ring in rings:
        odd = _odd(ring.astype(np.float64), size)
        inside = inside ^ odd if rule == "even-odd" else inside | odd
    return inside


def _checked_ring(ring: Any, name: str) -> npt.NDArray[Any]:
    allowed = "at least three vertices x, y, finite"
    try:
        vertices = np.asarray(ring)
    except (TypeError, ValueError):
        raise invalid(name, "not a ring", value=ring, allowed=allowed) from None
    if vertices.dtype.kind not in "iuf":
        raise invalid(name, "not a ring", value=ring, allowed=allowed)
    if vertices.ndim != 2 or vertices.shape[1] != 2 or len(vertices) < 3:
        raise invalid(name, "not a ring", value=list(vertices.shape), allowed=allowed)
    if not np.isfinite(vertices).all():
        raise invalid(name, "not finite", allowed=allowed)
    return vertices


def _odd(ring: npt.NDArray[np.float64], size: Size) -> npt.NDArray[np.bool_]:
    """The pixels inside one ring by the even-odd rule.

    Along a row of pixel centres, each crossed edge changes between outside and inside. Crossings
    are counted at the first centre after each, and summed along the row.
    """
    height, width = size
    (x1, y1), (x2, y2) = ring.T, np.roll(ring, -1, axis=0).T
    # An edge crosses the rows with centres in [its lower y, its upper y).
    first = np.clip(np.ceil(np.minimum(y1, y2) - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y1, y2) - 0.5), 0, height).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(ring)), count)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    along = (row + 0.5 - y1[edge]) / (y2 - y1)[edge]
    crossing = x1[edge] + along * (x2 - x1)[edge]
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1))
    crossings = crossings.reshape(height, width + 1)[:, :width]
    return (np.cumsum(crossings, axis=1) % 2).astype(bool)
