"""Filters, sorting and labels of SEGS.

All but :func:`ordered` keep the order of the SEGS; :func:`remaining` returns the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from segs_client.boxes import FloatBox, area
from segs_client.contract import invalid
from segs_client.errors import contract_checked
from segs_client.segs import Seg, Segs

Measure: TypeAlias = Literal[
    "x1", "y1", "x2", "y2", "width", "height", "area", "area(=w*h)", "length_percent",
    "confidence", "confidence(0-100)",
]  # fmt: skip
Measured: TypeAlias = Literal["crop_region", "bbox"]

_OF_BOX: Mapping[str, Callable[[FloatBox], float]] = {
    "x1": lambda box: box[0],
    "y1": lambda box: box[1],
    "x2": lambda box: box[2],
    "y2": lambda box: box[3],
    "width": lambda box: box[2] - box[0],
    "height": lambda box: box[3] - box[1],
    "area": area,
    "area(=w*h)": area,
    "length_percent": lambda box: 100 * max(_sides(box)) / min(_sides(box)),
}
_OF_SEG: Mapping[str, Callable[[Seg], float]] = {
    "confidence": lambda seg: seg.confidence,
    "confidence(0-100)": lambda seg: 100 * seg.confidence,
}
_BOTH_SIDES = {"eyes": "eye", "eyebrows": "eyebrow", "pupils": "pupil"}


def with_labels(segs: Segs, labels: str | Collection[str], *, negate: bool = False) -> Segs:
    """The SEGS with one of these labels.

    Args:
        segs: to choose from.
        labels: a text, of which the labels are separated by commas and stripped of spaces; or a
            collection of labels. "all": every label. "eyes", "eyebrows" and "pupils" also stand
            for those of ``left_`` and ``right_``, e.g. ``left_eye``.
        negate: choose the others instead.

    Example:
        >>> segs = Segs.from_boxes([(0, 0, 9, 9)] * 3, (20, 20), labels=["cat", "dog", "cat"])
        >>> len(with_labels(segs, "cat")), len(with_labels(segs, ["cat"], negate=True))
        (2, 1)
    """
    is_wanted = label_test(labels)
    return Segs(segs.size, tuple(seg for seg in segs if is_wanted(seg.label) != negate))


def label_test(labels: str | Collection[str]) -> Callable[[str], bool]:
    """Whether a label is one of ``labels``, read as by :func:`with_labels`."""
    parts = [part.strip() for part in labels.split(",")] if isinstance(labels, str) else labels
    wanted = set(parts)
    for name in _BOTH_SIDES.keys() & wanted:
        wanted |= {f"left_{_BOTH_SIDES[name]}", f"right_{_BOTH_SIDES[name]}"}
    return lambda label: "all" in wanted or label in wanted


@contract_checked()
def in_range(
    segs: Segs,
    measure: Measure,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    of: Measured = "crop_region",
    negate: bool = False,
) -> Segs:
    """The SEGS whose measure is between two values, both included.

    Args:
        segs: to choose from.
        measure: "x1", "y1", "x2", "y2", "width" or "height" in pixels; "area"; "length_percent",
            100 · longer / shorter side; "confidence", or "confidence(0-100)", 100 times as much.
        low: least value.
        high: greatest value.
        of: what is measured: the crop region, as in the reference, or the box.
        negate: choose the others instead.

    Raises:
        InvalidRequest: an unknown measure.

    Example:
        >>> segs = Segs.from_boxes([(0, 0, 5, 5), (0, 0, 9, 9)], (20, 20), crop_factor=2)
        >>> in_range(segs, "area", low=101)[0].crop_region
        (0, 0, 18, 18)
        >>> in_range(segs, "area", high=25, of="bbox")[0].bbox
        (0, 0, 5, 5)
    """
    measured = _measure(measure, of)
    chosen = (seg for seg in segs if (low <= measured(seg) <= high) != negate)
    return Segs(segs.size, tuple(chosen))


@contract_checked()
def ordered(
    segs: Segs,
    by: Measure,
    *,
    of: Measured = "crop_region",
    descending: bool = False,
    start: int = 0,
    count: int | None = None,
) -> Segs:
    """The SEGS sorted by a measure; of these, ``count`` from the ``start``-th on.

    Args:
        segs: to sort; those of equal measure keep their order.
        by: the measure, and
        of: what is measured; see :func:`in_range`.
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

    The others, in sorted order: ``remaining(ordered(segs, by), ordered(segs, by, count=n))``.
    """
    for name, number in (("start", start), ("count", count)):
        if number is not None and number < 0:
            raise invalid(name, "negative", value=number, allowed="0 or more")
    in_order = sorted(segs, key=_measure(by, of), reverse=descending)
    return Segs(segs.size, tuple(in_order[start:][:count]))


def remaining(segs: Segs, chosen: Segs) -> Segs:
    """The SEGS that are not among the chosen ones (the objects themselves, not equal ones), in the
    order of ``segs``.

    Example:
        >>> segs = Segs.from_boxes([(0, 0, 5, 5), (0, 0, 9, 9)], (20, 20), crop_factor=1)
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


def relabelled(segs: Segs, label: str | Mapping[str, str] | Sequence[str]) -> Segs:
    """The SEGS with other labels.

    Args:
        segs: to rename.
        label: of all; or a mapping of old labels to new ones, others are kept; or a list, of which
            the n-th, stripped of spaces, is the n-th SEG's, and further SEGS keep theirs.

    Example:
        >>> segs = Segs.from_boxes([(0, 0, 9, 9)] * 2, (20, 20), labels=["cat", "dog"])
        >>> [seg.label for seg in relabelled(segs, {"dog": "wolf"})]
        ['cat', 'wolf']
        >>> [seg.label for seg in relabelled(segs, "lion, wolf".split(","))]
        ['lion', 'wolf']
    """
    if not isinstance(label, (str, Mapping)):
        texts = [text.strip() for text in label][: len(segs)]
        texts += [seg.label for seg in segs.items[len(texts) :]]
        pairs = zip(segs, texts, strict=True)
        return Segs(segs.size, tuple(replace(seg, label=text) for seg, text in pairs))
    names = dict.fromkeys((seg.label for seg in segs), label) if isinstance(label, str) else label
    items = (replace(seg, label=names.get(seg.label, seg.label)) for seg in segs)
    return Segs(segs.size, tuple(items))


def _measure(name: str, of: Measured) -> Callable[[Seg], float]:
    if of not in ("crop_region", "bbox"):
        raise invalid("of", "unknown", value=of, allowed="'crop_region', 'bbox'")
    if name in _OF_SEG:
        return _OF_SEG[name]
    if name not in _OF_BOX:
        raise invalid("measure", "unknown", value=name, allowed=", ".join((*_OF_BOX, *_OF_SEG)))
    measure = _OF_BOX[name]
    return lambda seg: measure(getattr(seg, of))


def _sides(box: FloatBox) -> tuple[float, float]:
    return box[2] - box[0], box[3] - box[1]
