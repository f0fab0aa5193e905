"""SEGS that the tools are tested with."""

from __future__ import annotations

from typing import Any

import numpy as np

from segs_client import Seg, Segs
from segs_client.boxes import Box

SIZE = (48, 64)
EMPTY = Segs(SIZE)
BOXES = [(30, 4, 40, 14), (2, 20, 8, 44), (10, 10, 50, 18)]
SEGS = Segs.from_boxes(
    BOXES, SIZE, crop_factor=1.5, labels=["cat", "dog", "cat"], confidences=[0.9, 0.2, 0.5]
)


def random_segs(seed: int, count: int = 5) -> Segs:
    """SEGS with rough masks, crops here and there, some regions at the picture's edges."""
    random = np.random.default_rng(seed)
    items = []
    for index in range(count):
        x1, y1 = int(random.integers(0, 50)), int(random.integers(0, 34))
        x2, y2 = int(random.integers(x1 + 1, 65)), int(random.integers(y1 + 1, 49))
        mask = random.random((y2 - y1, x2 - x1), np.float32)
        mask[mask < 0.6] = 0
        image = random.random((*mask.shape, 3), np.float32) if index % 2 else None
        box = (x1, y1, x2, y2)
        items.append(Seg(mask, box, box, float(random.random()), f"é{index}", image))
    return Segs(SIZE, tuple(items))


def same(one: Segs, other: Segs) -> bool:
    """Whether two SEGS are equal to the last bit."""

    def content(segs: Segs) -> list[tuple[Any, ...]]:
        return [
            (
                seg.bbox,
                seg.crop_region,
                seg.label,
                seg.confidence,
                seg.mask.tobytes(),
                None if seg.image is None else (seg.image.shape, seg.image.tobytes()),
            )
            for seg in segs
        ]

    return one.size == other.size and content(one) == content(other)


def box_seg(box: Box, region: Box, **more: Any) -> Seg:
    """A SEG with that box and crop region whose mask is 1 everywhere."""
    mask = np.ones((region[3] - region[1], region[2] - region[0]), np.float32)
    return Seg(mask, box, region, **more)
