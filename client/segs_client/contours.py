"""Outer contours of a mask: its filled 8-connected components, found by runs.

A component in a hole of another one is part of the filled outer one. Rows are cut into runs of
equal pixels; runs are joined by union-find in numpy, without Python loops over pixels or rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Indices: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Regions:
    """Filled outer contours.

    Attributes:
        labels: int32 [H, W]; 0 is outside, n is the n-th box's region.
        boxes: int64 [N, 4], x1, y1, x2, y2, half-open; ordered by first pixel in reading order.
    """

    labels: npt.NDArray[np.int32]
    boxes: Indices


def filled_regions(foreground: npt.NDArray[np.bool_]) -> Regions:
    """Labels the filled outer contours of a boolean picture ``[H, W]``.

    Example:
        >>> ring = np.pad(np.pad(np.zeros((1, 1), bool), 1, constant_values=True), 1)
        >>> filled_regions(ring).boxes
        array([[1, 1, 4, 4]])
    """
    padded = np.pad(foreground, 1)  # the outside is one background region, that of run 0
    columns = padded.shape[1]
    flat = padded.ravel()
    starts_run = np.empty(flat.size, bool)
    starts_run[0] = True
    np.not_equal(flat[1:], flat[:-1], out=starts_run[1:])
    starts_run[::columns] = True
    start = np.flatnonzero(starts_run)
    length = np.diff(start, append=flat.size)
    is_foreground = flat[start]

    pairs = [
        _touching(np.flatnonzero(is_foreground), start, length, columns, diagonal=True),
        _touching(np.flatnonzero(~is_foreground), start, length, columns, diagonal=False),
    ]
    root = _union(start.size, *(np.concatenate(ends) for ends in zip(*pairs, strict=True)))
    outer = _outermost(root, start, columns)

    inside = np.flatnonzero(outer)
    order, number = np.unique(outer[inside], return_inverse=True)
    label = np.zeros(start.size, np.int32)
    label[inside] = number + 1
    labels = np.repeat(label, length).reshape(padded.shape)[1:-1, 1:-1]
    boxes = _boxes(start[inside], length[inside], number, len(order), columns)
    return Regions(labels=labels, boxes=boxes)


def _touching(
    runs: Indices, start: Indices, length: Indices, columns: int, *, diagonal: bool
) -> tuple[Indices, Indices]:
    """Pairs of runs in neighbouring rows that share a side, or also a corner if ``diagonal``."""
    first = start[runs]
    last = first + length[runs] - 1
    reach = 1 if diagonal else 0
    # Runs are ordered by their flat positions. The runs below that touch run i are those from the
    # first that ends at or after its start to the last that starts at or before its end.
    # Foreground never touches the padding, so a reach of 1 stays in the row.
    low = np.searchsorted(last, first + columns - reach, side="left")
    high = np.searchsorted(first, last + columns + reach, side="right")
    count = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(runs.size), count)
    rank = np.arange(upper.size) - np.repeat(np.cumsum(count) - count, count)
    return runs[upper], runs[np.repeat(low, count) + rank]


def _union(size: int, left: Indices, right: Indices) -> Indices:
    """The smallest member of each node's connected component: [size]."""
    parent = np.arange(size)
    while left.size:
        a, b = parent[left], parent[right]
        apart = a != b
        left, right, a, b = left[apart], right[apart], a[apart], b[apart]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        parent = _followed(parent)
    return parent


def _outermost(root: Indices, start: Indices, columns: int) -> Indices:
    """For each run the first run of its outermost region; 0 for the outside.

    The pixel above a region's first pixel belongs to the region around it, which has an earlier
    first run. Following these pointers leads from a hole or an island to the outer contour.
    """
    tops = np.unique(root)[1:]
    above = np.searchsorted(start, start[tops] - columns, side="right") - 1
    around = np.arange(root.size)
    around[tops] = np.where(root[above] == 0, tops, root[above])
    return _followed(around)[root]


def _followed(parent: Indices) -> Indices:
    """Pointers followed to their ends, with pointer doubling."""
    while True:
        further = parent[parent]
        if np.array_equal(further, parent):
            return parent
        parent = further


def _boxes(
    start: Indices, length: Indices, number: npt.NDArray[Any], count: int, columns: int
) -> Indices:
    row, column = start // columns - 1, start % columns - 1  # without the padding
    boxes = np.empty((count, 4), np.int64)
    boxes[:, :2] = np.iinfo(np.int64).max
    boxes[:, 2:] = 0
    np.minimum.at(boxes[:, 0], number, column)
    np.minimum.at(boxes[:, 1], number, row)
    np.maximum.at(boxes[:, 2], number, column + length)
    np.maximum.at(boxes[:, 3], number, row + 1)
    return boxes
