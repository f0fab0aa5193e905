"""Tiles over a picture."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from segs_client import InvalidRequest, tools

SIZE = (24, 32)


@pytest.mark.parametrize("seed", range(30))
def test_tiles_cover_every_pixel(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = tuple(int(side) for side in random.integers(1, 200, 2))
    tile = tuple(int(side) for side in random.integers(8, 90, 2))
    overlap = int(random.integers(0, min(tile)))
    factor = float(random.uniform(1, 2))
    segs = tools.tiles((size[0], size[1]), (tile[0], tile[1]), overlap=overlap, crop_factor=factor)
    assert tools.combined_mask(segs).min() == 1
    sides = {(seg.bbox[3] - seg.bbox[1], seg.bbox[2] - seg.bbox[0]) for seg in segs}
    assert sides == {(min(tile[0], size[0]), min(tile[1], size[1]))}
    boxes = [seg.bbox for seg in segs]
    assert boxes == sorted(boxes, key=lambda box: (box[1], box[0]))
    for low, high in ((0, 2), (1, 3)):
        spans = sorted({(box[low], box[high]) for box in boxes})
        assert all(one[1] - two[0] >= overlap for one, two in pairwise(spans))


def test_tiles_filtered_by_masks() -> None:
    left = np.zeros((100, 100), np.float32)
    left[:, :60] = 1
    everywhere, inside, outside = (
        tools.tiles((100, 100), 50, overlap=0, **filters)
        for filters in ({}, {"only_in": left}, {"not_in": left})
    )
    assert [seg.bbox[:2] for seg in everywhere] == [(0, 0), (50, 0), (0, 50), (50, 50)]
    assert [seg.mask.sum() for seg in inside] == [2500, 500, 2500, 500]
    assert [seg.bbox[:2] for seg in outside] == [(50, 0), (50, 50)]
    full = tools.tiles((100, 100), 50, overlap=0, only_in=left, min_coverage=0.5)
    assert [seg.bbox[:2] for seg in full] == [(0, 0), (0, 50)]
    assert len(tools.tiles((100, 100), 80, only_in=np.zeros((100, 100)))) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": 0}, "not a size"),
        ({"tile": 9, "overlap": 9}, r"overlap: does not fit .*0 … 8"),
        ({"overlap": -1}, "overlap"),
        ({"only_in": np.zeros((3, 3))}, r"only_in: wrong shape .*\[24, 32\]"),
    ],
)
def test_bad_tiles(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        tools.tiles(SIZE, **options)
