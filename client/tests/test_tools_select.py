"""SEGS chosen, sorted, renamed and merged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sample_segs import EMPTY, SEGS, SIZE, box_seg, random_segs, same

from segs_client import InvalidRequest, Segs, tools


def which(segs: Segs) -> list[int]:
    """The indices that the SEGS have in ``SEGS``."""
    return [SEGS.items.index(seg) for seg in segs]


@pytest.mark.parametrize(
    ("labels", "negate", "expected"),
    [
        ("cat", False, [0, 2]),
        ("cat", True, [1]),
        (["dog", "cow"], False, [1]),
        ({"dog", "cat"}, True, []),
        ("all", False, [0, 1, 2]),
        (" dog ,cow", False, [1]),
        ("dog, all", False, [0, 1, 2]),
        ("", False, []),
        (["dog,cat"], False, []),
        (["all"], True, []),
        ([], False, []),
    ],
)
def test_with_labels(labels: Any, negate: bool, expected: list[int]) -> None:
    chosen = tools.with_labels(SEGS, labels, negate=negate)
    assert which(chosen) == expected
    assert which(tools.remaining(SEGS, chosen)) == [at for at in range(3) if at not in expected]


@pytest.mark.parametrize(
    ("measure", "low", "high", "expected"),
    [
        ("x1", 3, 30, [0, 2]),
        ("y1", 10, 99, [1, 2]),
        ("x2", 0, 40, [0, 1]),
        ("y2", 15, 18, [2]),
        ("width", 6, 10, [0, 1]),
        ("height", 8, 10, [0, 2]),
        ("area", 100, 144, [0, 1]),
        ("area(=w*h)", 100, 144, [0, 1]),
        ("length_percent", 400, 450, [1]),
        ("length_percent", 100, 100, [0]),
        ("confidence", 0.5, 1, [0, 2]),
        ("confidence(0-100)", 50, 100, [0, 2]),
    ],
)
def test_in_range_of_the_box(measure: Any, low: float, high: float, expected: list[int]) -> None:
    assert which(tools.in_range(SEGS, measure, low, high, of="bbox")) == expected
    others = tools.in_range(SEGS, measure, low, high, of="bbox", negate=True)
    assert which(others) == [at for at in range(3) if at not in expected]


def test_the_crop_region_is_measured_unless_the_box_is_asked_for() -> None:
    segs = Segs(
        SIZE,
        (
            box_seg((0, 0, 20, 20), (0, 0, 21, 21)),
            box_seg((5, 5, 10, 10), (0, 0, 40, 40)),
        ),
    )
    assert [seg.bbox[2] for seg in tools.ordered(segs, "area", descending=True)] == [10, 20]
    assert [seg.bbox[2] for seg in tools.ordered(segs, "area", of="bbox")] == [10, 20]
    assert len(tools.in_range(segs, "width", low=22)) == 1
    assert len(tools.in_range(segs, "width", low=22, of="bbox")) == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"by": "x1"}, [1, 2, 0]),
        ({"by": "y1", "descending": True}, [1, 2, 0]),
        ({"by": "area", "descending": True, "count": 1}, [2]),
        ({"by": "confidence", "start": 1}, [2, 0]),
        ({"by": "width", "start": 1, "count": 1}, [0]),
        ({"by": "height", "start": 9}, []),
        ({"by": "x1", "count": 0}, []),
    ],
)
def test_ordered(options: dict[str, Any], expected: list[int]) -> None:
    assert which(tools.ordered(SEGS, **options)) == expected


@pytest.mark.parametrize("descending", [False, True])
def test_equal_measures_keep_their_order(descending: bool) -> None:
    segs = Segs.from_boxes([(0, 0, 5, 5)] * 4, SIZE, labels=list("abcd"))
    ordered = tools.ordered(segs, "area", descending=descending)
    assert [seg.label for seg in ordered] == list("abcd")


def test_labels_are_replaced() -> None:
    assert {seg.label for seg in tools.relabelled(SEGS, "x")} == {"x"}
    renamed = tools.relabelled(SEGS, {"cat": "lion", "cow": "ox"})
    assert [seg.label for seg in renamed] == ["lion", "dog", "lion"]
    for texts, expected in (
        ([" a ", "b"], ["a", "b", "cat"]),
        (["w", "x", "y", "z"], ["w", "x", "y"]),
        ([], ["cat", "dog", "cat"]),
    ):
        assert [seg.label for seg in tools.relabelled(SEGS, texts)] == expected


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tools.in_range(SEGS, "size"), "measure: unknown .*x1, y1, .*0-100"),  # type: ignore[arg-type]
        (lambda: tools.in_range(SEGS, "x1", of="crop"), "of: unknown .*'crop_region', 'bbox'"),  # type: ignore[arg-type]
        (lambda: tools.ordered(SEGS, "x1", start=-1), "start: negative"),
        (lambda: tools.ordered(SEGS, "x1", count=-1), "count: negative"),
        (lambda: tools.merged(SEGS, "same"), "alike: unknown .*'equal_region'"),  # type: ignore[arg-type]
        (lambda: tools.dilated(SEGS, -1), "px: negative"),
        (lambda: tools.eroded(SEGS, -1), "px: negative"),
        (lambda: tools.blurred(SEGS, -1), "px: negative"),
        (lambda: tools.dilated(SEGS, 1, element="star"), "element: unknown"),  # type: ignore[arg-type]
        (lambda: tools.blurred(SEGS, 1, sigma=0), "sigma: not a width"),
        (lambda: tools.intersected(SEGS, np.zeros((2, *SIZE))), "mask: 2 masks given; allowed: 3"),
        (lambda: tools.subtracted(SEGS, np.zeros((3, 3))), r"wrong shape .*\[48, 64\]"),
        (lambda: tools.intersected(SEGS, np.full(SIZE, 2.0)), "0 … 1"),
    ],
)
def test_refusals(call: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        call()


def test_every_tool_takes_empty_segs() -> None:
    mask = np.ones(SIZE)
    changed = [
        tools.with_labels(EMPTY, "cat"),
        tools.in_range(EMPTY, "area", 0, 1),
        tools.ordered(EMPTY, "x1"),
        tools.remaining(EMPTY, EMPTY),
        tools.without_empty(EMPTY),
        tools.relabelled(EMPTY, "x"),
        tools.relabelled(EMPTY, ["x"]),
        tools.merged(EMPTY),
        tools.merged_into_one(EMPTY),
        tools.dilated_in_crop(EMPTY, 4),
        tools.dilated(EMPTY, 3),
        tools.eroded(EMPTY, 3),
        tools.blurred(EMPTY, 3),
        tools.box_filled(EMPTY),
        tools.thresholded(EMPTY),
        tools.intersected(EMPTY, mask),
        tools.subtracted(EMPTY, mask),
    ]
    assert all(segs.size == SIZE and len(segs) == 0 for segs in changed)
    assert tools.combined_mask(EMPTY).shape == SIZE


def test_equal_regions_merge() -> None:
    region, crop = (0, 0, 20, 20), np.full((20, 20, 3), 0.5)
    segs = Segs(
        SIZE,
        (
            box_seg((2, 2, 5, 5), region, label="a", confidence=0.1, image=crop),
            box_seg((30, 30, 40, 40), (20, 20, 45, 45), label="b"),
            box_seg((9, 9, 12, 15), region, label="c", confidence=0.7),
        ),
    )
    first, second = tools.merged(segs, "equal_region")
    assert (first.bbox, first.crop_region) == ((2, 2, 12, 15), region)
    assert (first.label, first.confidence) == ("a", 0.7)
    assert first.image is not None
    assert second is segs[1]


def test_overlapping_ones_merge_through_others() -> None:
    boxes = [(0, 0, 10, 10), (40, 0, 44, 4), (18, 0, 28, 10), (9, 9, 20, 20)]
    for alike in ("overlapping_boxes", "overlapping_masks"):
        segs = Segs.from_boxes(boxes, SIZE, crop_factor=1.5)
        first, second = tools.merged(segs, alike)  # type: ignore[arg-type]
        assert (first.bbox, first.image) == ((0, 0, 28, 20), None)
        assert second is segs[1]
        np.testing.assert_array_equal(
            tools.combined_mask(Segs(SIZE, (first, second))), tools.combined_mask(segs)
        )


def test_boxes_may_overlap_where_masks_do_not() -> None:
    left, right = np.zeros((2, *SIZE), bool)
    left[:, :30] = right[:, 30:] = True
    segs = tools.intersected(Segs.from_boxes([(10, 0, 50, 9)], SIZE), left).plus(
        tools.intersected(Segs.from_boxes([(10, 0, 50, 9)], SIZE), right)
    )
    assert len(tools.merged(segs, "overlapping_masks")) == 2
    assert len(tools.merged(segs, "overlapping_boxes")) == 1


@pytest.mark.parametrize("seed", range(5))
def test_merging_keeps_the_combined_mask(seed: int) -> None:
    segs = tools.thresholded(random_segs(seed))
    merged = tools.merged(segs)
    np.testing.assert_array_equal(tools.combined_mask(merged), tools.combined_mask(segs))
    assert same(tools.merged(merged), merged)
