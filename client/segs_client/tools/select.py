"""Filters, sorting and labels of SEGS.

All but :func:`ordered` keep the order of the SEGS; :func:`remaining` returns the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Literal, TypeAlias

from segs_client.contract import invalid
from segs_client.errors import contract_checked
from segs_client.segs import Seg, Segs

Measure: TypeAlias = Literal["x1", "y1", "x2", "y2", "width", "height", "area", "confidence"]

_MEASURES: Mapping[str, Callable[[Seg], float]] = {
    "x1": lambda seg: seg.bbox[0],
    "y1": lambda seg: seg.bbox[1],
    "x2": lambda seg: seg.bbox[2],
    "y2": lambda seg: seg.bbox[3],
    "width": lambda seg: seg.bbox[2] - seg.bbox[0],
    "height": lambda seg: seg.bbox[3] - seg.bbox[1],
    "area": lambda seg: (seg.bbox[2] - seg.bbox[0]) * (seg.bbox[3] - seg.bbox[1]),
    "confidence": lambda seg: seg.confidence,
}


def with_labels(segs: Segs, labels: str | Collection[str], *, negate: bool = False) -> Segs:
    """The SEGS with one of these labels.

    Args:
        segs: to choose from.
        labels: one or several; "all": every label.
        negate: choose the others instead.

    Example:
        >>> segs = Segs.from_boxes([(0, 0, 9, 9)] * 3, (20, 20), labels=["cat", "dog", "cat"])
        >>> len(with_labels(segs, "cat")), len(with_labels(segs, ["cat"], negate=True))
        (2, 1)
    """
    wanted = {labels} if isinstance(labels, str) else set(labels)
    keeps = ("all" in wanted or seg.label in wanted for seg in segs)
    chosen = (seg for seg, keep in zip(segs, keeps, strict=True) if keep != negate)
    return Segs(segs.size, tuple(chosen))


@contract_checked()
def in_range(
    segs: Segs,
    measure: Measure,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    negate: bool = False,
) -> Segs:
    """The SEGS whose measure is between two values, both included.

    Args:
        segs: to choose from.
        measure: of the box in pixels, its area, or the confidence.
        low: least value.
        high: greatest value.
        negate: choose the others instead.

    Raises:
        InvalidRequest: an unknown measure.

    Example:
        >>> segs = Segs.from_boxes([(0, 0, 5, 5), (0, 0, 9, 9)], (20, 20))
        >>> in_range(segs, "area", low=26)[0].bbox
        (0, 0, 9, 9)
    """
    measured = _measure(measure)
    chosen = (seg for seg in segs if (low <= measured(seg) <= high) != negate)
    return Segs(segs.size, tuple(chosen))


@contract_checked()
def ordered(
    segs: Segs,
    by: Measure,
    *,
    descending: bool = False,
    start: int = 0,
    count: int | None = None,
) -> Segs:
    """The SEGS sorted by a measure; of these, ``count`` from the ``start``-th on.

    Args:
        segs: to sort; those of equal measure keep their order.
        by: see :func:`in_range`.
        descending: the greatest first.
        start: number of sorted SEGS to skip.
        count: most SEGS to return; None: all.

    Raises:
        InvalidRequest: an unknown measure, a negative number.

    Example:
        >>> segs = Segs.from_boxes([(9, 0, 12, 5), (0, 0, 4, 4), (4, 0, 9, 9)], (20, 20))
        >>> [seg.bbox[0] for seg in ordered(segs, "x1")]
        [0, 4, 9]
        >>> [seg.bbox for seg in ordered(segs, "area", descending=True, count=1)]
        [(4, 0, 9, 9)]
    """
    for name, number in (("start", start), ("count", count)):
        if number is not None and number < 0:
            raise invalid(name, "negative", value=number, allowed="0 or more")
    in_order = sorted(segs, key=_measure(by), reverse=descending)
    return Segs(segs.size, tuple(in_order[start:][:count]))


def remaining(segs: Segs, chosen: Segs) -> Segs:
    """The SEGS that are not among the chosen ones (the objects themselves, not equal ones).

    Example:
        >>> segs = Segs.from_boxes([(0, 0, 5, 5), (0, 0, 9, 9)], (20, 20))
        >>> remaining(segs, in_range(segs, "area", low=26))[0].bbox
        (0, 0, 5, 5)
    """
    excluded = {id(seg) for seg in chosen}
    return Segs(segs.size, tuple(seg for seg in segs if id(seg) not in excluded))


def without_empty(segs: Segs) -> Segs:
    """The SEGS whose mask is not 0 everywhere.

    Example:
        >>> segs = Segs((9, 9), (Seg(np.zeros((9, 9)), (0, 0, 5, 5), (0, 0, 9, 9)),))
        >>> len(without_empty(segs))
        0
    """
    return Segs(segs.size, tuple(seg for seg in segs if seg.mask.any()))


def relabelled(segs: Segs, label: str | Mapping[str, str]) -> Segs:
    """The SEGS with other labels.

    Args:
        segs: to rename.
        label: of all; or a mapping of old labels to new ones, others are kept.

    Example:
        >>> segs = Segs.from_boxes([(0, 0, 9, 9)] * 2, (20, 20), labels=["cat", "dog"])
        >>> [seg.label for seg in relabelled(segs, {"dog": "wolf"})]
        ['cat', 'wolf']
    """
    names = dict.fromkeys((seg.label for seg in segs), label) if isinstance(label, str) else label
    items = (replace(seg, label=names.get(seg.label, seg.label)) for seg in segs)
    return Segs(segs.size, tuple(items))


def _measure(name: str) -> Callable[[Seg], float]:
    if name not in _MEASURES:
        raise invalid("measure", "unknown", value=name, allowed=", ".join(_MEASURES))
    return _MEASURES[name]
