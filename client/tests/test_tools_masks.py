"""Masks of SEGS grown, shrunk, softened and cut."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sample_segs import BOXES, SIZE, box_seg, random_segs

from segs_client import Segs, tools
from segs_client.tools.morphology import Element


def neighbourhood(px: int, element: Element) -> list[tuple[int, int]]:
    span = range(-px, px + 1)
    return [
        (dy, dx)
        for dy in span
        for dx in span
        if element == "square" or dx * dx + dy * dy <= px * px
    ]


def extreme(
    mask: npt.NDArray[np.float32], px: int, element: Element, outside: float, pick: Any
) -> npt.NDArray[np.float32]:
    padded = np.pad(mask, px, constant_values=outside)
    height, width = mask.shape
    shifted = [
        padded[px + dy : px + dy + height, px + dx : px + dx + width]
        for dy, dx in neighbourhood(px, element)
    ]
    return np.asarray(pick(shifted, axis=0))


@pytest.mark.parametrize("element", ["disc", "square"])
@pytest.mark.parametrize("px", [0, 1, 2, 5, 11])
def test_dilated_and_eroded_are_the_extremes_of_the_neighbourhood(
    px: int, element: Element
) -> None:
    for seed in range(3):
        (seg,) = random_segs(seed, 1)
        segs = Segs(SIZE, (seg,))
        full = tools.combined_mask(segs)
        dilated = tools.dilated(segs, px, element=element)
        np.testing.assert_array_equal(
            tools.combined_mask(dilated), extreme(full, px, element, 0, np.max)
        )
        eroded = tools.eroded(segs, px, element=element)
        np.testing.assert_array_equal(
            tools.combined_mask(eroded), extreme(full, px, element, 1, np.min)
        )
        assert not np.signbit(eroded[0].mask).any()
        assert eroded[0].crop_region == seg.crop_region


def test_a_region_grows_for_a_dilated_mask_as_far_as_the_picture_goes() -> None:
    inner = box_seg((10, 10, 20, 20), (10, 10, 20, 20), image=np.zeros((10, 10, 3)))
    corner = box_seg((60, 40, 64, 48), (58, 38, 64, 48))
    empty = replace(inner, mask=np.zeros((10, 10)))
    roomy = Segs.from_boxes([(20, 20, 30, 30)], SIZE, crop_factor=2)[0]
    segs = tools.dilated(Segs(SIZE, (inner, corner, empty, roomy)), 3)
    assert [seg.crop_region for seg in segs] == [
        (7, 7, 23, 23),
        (55, 35, 64, 48),
        (10, 10, 20, 20),
        (15, 15, 35, 35),
    ]
    assert [seg.bbox for seg in segs] == [inner.bbox, corner.bbox, empty.bbox, roomy.bbox]
    assert segs[0].image is None
    assert segs[2].image is not None


def test_dilating_by_100_px_takes_under_a_second() -> None:
    mask = np.zeros((768, 768), np.float32)
    mask[300:400, 300:400] = 1
    segs = Segs.from_mask(mask, crop_factor=8)
    start = time.process_time()
    tools.dilated(segs, 100)
    assert time.process_time() - start < 1


def test_blurred_masks_stay_in_range() -> None:
    segs = tools.blurred(Segs.from_boxes(BOXES, SIZE), 5)
    for seg, hard in zip(segs, Segs.from_boxes(BOXES, SIZE), strict=True):
        assert 0 <= seg.mask.min() <= seg.mask.max() <= 1
        assert ((seg.mask > 0) & (seg.mask < 1)).sum() > 0
        assert seg.mask.sum() == pytest.approx(hard.mask.sum(), rel=0.2)


def test_masks_cut_by_a_mask() -> None:
    for seed in range(5):
        segs = random_segs(seed, 1)
        cut = np.random.default_rng(seed).random(SIZE, np.float32)
        full, other = (
            np.trunc(np.float32(255) * mask) for mask in (tools.combined_mask(segs), cut)
        )
        inside, outside = tools.intersected(segs, cut), tools.subtracted(segs, cut)
        anded = full.astype(np.uint8) & other.astype(np.uint8)
        np.testing.assert_array_equal(tools.combined_mask(inside) * 255, anded)
        np.testing.assert_array_equal(
            np.rint(tools.combined_mask(outside) * 255), np.maximum(full - other, 0)
        )
        hard = tools.intersected(tools.thresholded(segs), cut > 0.5)
        assert set(np.unique(tools.combined_mask(hard))) <= {0, 1}
    nothing = tools.intersected(segs, np.zeros(SIZE))
    assert len(nothing) == len(segs)
    assert len(tools.without_empty(nothing)) == 0


def test_hard_masks() -> None:
    segs = random_segs(1)
    hard = tools.thresholded(segs, 0.8)
    assert {0.0, 1.0} == set(np.unique(np.concatenate([seg.mask.ravel() for seg in hard])))
    for one, other in zip(hard, segs, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask >= 0.8)
    filled = tools.box_filled(Segs.from_boxes(BOXES, SIZE, crop_factor=2))
    assert [seg.mask.sum() for seg in filled] == [100, 144, 320]
