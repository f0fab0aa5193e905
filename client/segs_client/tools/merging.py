"""Merging of SEGS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Literal, TypeAlias

import numpy as np

from segs_client.contract import invalid
from segs_client.errors import contract_checked
from segs_client.segs import Seg, Segs
from segs_client.tools.masks import combined_mask
from segs_client.tools.regions import around, moved, overlap, whole

Alike: TypeAlias = Literal["equal_region", "overlapping_boxes", "overlapping_masks"]


@contract_checked()
def merged(segs: Segs, alike: Alike = "overlapping_masks") -> Segs:
    """The SEGS with groups of related ones merged; relations are transitive.

    A merged SEG has the position and the label of its first member. Its box and its crop region are
    the smallest around the members', its mask is their greatest value at each pixel, its confidence
    their greatest. It has the first member's crop if all members have the same crop region, else
    none. SEGS without a relation are unchanged.

    Args:
        segs: to merge.
        alike: the relation: "equal_region" (crop region), "overlapping_boxes" (a common pixel), or
            "overlapping_masks" (a pixel greater than 0 in both).

    Raises:
        InvalidRequest: an unknown ``alike``.

    Example:
        >>> segs = Segs.from_boxes([(0, 0, 5, 5), (8, 8, 9, 9), (4, 4, 7, 7)], (9, 9))
        >>> [seg.bbox for seg in merged(segs)]
        [(0, 0, 7, 7), (8, 8, 9, 9)]
    """
    if alike not in _ALIKE:
        raise invalid("alike", "unknown", value=alike, allowed=", ".join(map(repr, _ALIKE)))
    together = _ALIKE[alike]
    groups: list[list[int]] = []
    for index, seg in enumerate(segs):
        joined = [group for group in groups if any(together(seg, segs[at]) for at in group)]
        groups = [group for group in groups if group not in joined]
        groups.append(sorted([index, *chain.from_iterable(joined)]))
    return Segs(segs.size, tuple(_one([segs[at] for at in group]) for group in sorted(groups)))


def merged_into_one(segs: Segs) -> Segs:
    """All SEGS as one: what ComfyUI's SEGSMerge makes of them.

    Its label is "merged", its confidence the least, its box and its crop region are the smallest
    around all, its mask is their :func:`~segs_client.tools.combined_mask`. It has no crop and no
    options of its own. No SEGS stay none.

    Example:
        >>> segs = Segs.from_boxes([(0, 0, 5, 5), (8, 8, 9, 9)], (9, 9), confidences=[0.5, 0.25])
        >>> (seg,) = merged_into_one(segs)
        >>> seg.label, seg.confidence, seg.bbox
        ('merged', 0.25, (0, 0, 9, 9))
    """
    if not len(segs):
        return segs
    region = around(*(seg.crop_region for seg in segs))
    seg = Seg(
        moved(combined_mask(segs), whole(segs.size), region),
        around(*(seg.bbox for seg in segs)),
        region,
        confidence=min(seg.confidence for seg in segs),
        label="merged",
    )
    return Segs(segs.size, (seg,))


def _one(members: Sequence[Seg]) -> Seg:
    first = members[0]
    if len(members) == 1:
        return first
    region = around(*(seg.crop_region for seg in members))
    same = all(seg.crop_region == region for seg in members)
    masks = [moved(seg.mask, seg.crop_region, region) for seg in members]
    return replace(
        first,
        mask=np.max(masks, axis=0),
        bbox=around(*(seg.bbox for seg in members)),
        crop_region=region,
        confidence=max(seg.confidence for seg in members),
        image=first.image if same else None,
    )


def _masks_overlap(one: Seg, other: Seg) -> bool:
    common = overlap(one.crop_region, other.crop_region)
    if common is None:
        return False
    inside = [moved(seg.mask, seg.crop_region, common) > 0 for seg in (one, other)]
    return bool(np.logical_and(*inside).any())


_ALIKE: Mapping[str, Callable[[Seg, Seg], bool]] = {
    "equal_region": lambda one, other: one.crop_region == other.crop_region,
    "overlapping_boxes": lambda one, other: overlap(one.bbox, other.bbox) is not None,
    "overlapping_masks": _masks_overlap,
}
