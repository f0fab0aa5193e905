"""SEGS chosen, merged, changed, kept and shown."""

from __future__ import annotations

import io
import json
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from segs_client import InvalidRequest, Seg, Segs, scaled_to, tools
from segs_client.tools.morphology import Element

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
        ("confidence", 0.5, 1, [0, 2]),
    ],
)
def test_in_range(measure: Any, low: float, high: float, expected: list[int]) -> None:
    assert which(tools.in_range(SEGS, measure, low, high)) == expected
    others = tools.in_range(SEGS, measure, low, high, negate=True)
    assert which(others) == [at for at in range(3) if at not in expected]


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


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tools.in_range(SEGS, "size"), "measure: unknown .*x1, y1, "),  # type: ignore[arg-type]
        (lambda: tools.ordered(SEGS, "x1", start=-1), "start: negative"),
        (lambda: tools.ordered(SEGS, "x1", count=-1), "count: negative"),
        (lambda: tools.merged(SEGS, "same"), "alike: unknown .*'equal_region'"),  # type: ignore[arg-type]
        (lambda: tools.dilated(SEGS, -1), "px: negative"),
        (lambda: tools.eroded(SEGS, -1), "px: negative"),
        (lambda: tools.blurred(SEGS, -1), "px: negative"),
        (lambda: tools.dilated(SEGS, 1, element="star"), "element: unknown"),  # type: ignore[arg-type]
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
        tools.merged(EMPTY),
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


def box_seg(box: tuple[int, int, int, int], region: tuple[int, int, int, int], **more: Any) -> Seg:
    return replace(
        Segs.from_boxes([box], SIZE)[0], mask=np.ones(shape(region)), crop_region=region, **more
    )


def shape(region: tuple[int, int, int, int]) -> tuple[int, int]:
    return region[3] - region[1], region[2] - region[0]


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
    segs = random_segs(seed)
    merged = tools.merged(segs)
    np.testing.assert_array_equal(tools.combined_mask(merged), tools.combined_mask(segs))
    assert same(tools.merged(merged), merged)


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
        segs = random_segs(seed)
        cut = np.random.default_rng(seed).random(SIZE, np.float32)
        full = tools.combined_mask(segs)
        inside, outside = tools.intersected(segs, cut), tools.subtracted(segs, cut)
        np.testing.assert_array_equal(tools.combined_mask(inside), np.minimum(full, cut))
        np.testing.assert_array_equal(tools.combined_mask(outside), np.minimum(full, 1 - cut))
    nothing = tools.intersected(segs, np.zeros(SIZE))
    assert len(nothing) == len(segs)
    assert len(tools.without_empty(nothing)) == 0


def test_hard_masks() -> None:
    segs = random_segs(1)
    hard = tools.thresholded(segs, 0.8)
    assert {0.0, 1.0} == set(np.unique(np.concatenate([seg.mask.ravel() for seg in hard])))
    np.testing.assert_array_equal(tools.combined_mask(hard) > 0, tools.combined_mask(segs) >= 0.8)
    filled = tools.box_filled(Segs.from_boxes(BOXES, SIZE, crop_factor=2))
    assert [seg.mask.sum() for seg in filled] == [100, 144, 320]


@pytest.mark.parametrize("seed", range(5))
def test_saved_segs_come_back_bit_by_bit(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "segs.file"
    for segs in (random_segs(seed), EMPTY):
        tools.save(segs, path)
        assert same(tools.load(path), segs)
        with path.open("rb") as file:
            assert same(tools.load(file), segs)


def test_crops_of_other_sizes_are_kept() -> None:
    segs = Segs(SIZE, (box_seg((0, 0, 9, 9), (0, 0, 9, 9), image=np.ones((30, 20, 3))),))
    file = io.BytesIO()
    tools.save(segs, file)
    assert same(tools.load(io.BytesIO(file.getvalue())), segs)


def archive(said: Any = None, **arrays: Any) -> bytes:
    """A file as save writes it, with some of it replaced."""
    seg = {"bbox": [0, 0, 2, 2], "crop_region": [0, 0, 2, 2], "confidence": 1.0, "label": "",
           "has_image": False}  # fmt: skip
    good = {"format": "segs", "version": 1, "size": [4, 4], "segs": [seg]}
    text = json.dumps({**good, **(said or {})}).encode()
    content = {"header": np.frombuffer(text, np.uint8), "mask_0": np.ones((2, 2), np.float32)}
    file = io.BytesIO()
    parts = {name: part for name, part in {**content, **arrays}.items() if part is not None}
    np.savez(file, **parts)
    return file.getvalue()


def one_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def no_array() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("header.npy", b"no array")
    return file.getvalue()


def test_the_archive_is_good() -> None:
    assert len(tools.load(io.BytesIO(archive()))) == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "file: not a file of SEGS"),
        (b"PK\x03\x04 and so on", "file: not a file of SEGS"),
        (archive()[:-200], "file: not a file of SEGS"),
        (one_array(), "file: not a file of SEGS .*one array"),
        (archive(mask_0=np.array([None])), "file: not a file of SEGS .*pickle"),
        (no_array(), "header: missing"),
        (archive({"version": 2}), r"version: unknown value \(got 2\); allowed: 1"),
        (archive({"format": "other"}), "format: unknown value"),
        (archive({"size": [0, 4]}), "size: not a size"),
        (archive({"segs": 3}), "segs: wrong type"),
        (archive({"segs": [{}]}), r"segs\.0\.bbox: required"),
        (archive({"more": 1}), "more: unknown field"),
        (archive(header=None), "header: missing"),
        (archive(header=np.zeros(3)), "header: wrong dtype .*float64.*uint8"),
        (archive(header=np.zeros(3, np.uint8)), "not valid JSON"),
        (archive(mask_0=None), "mask_0: missing"),
        (archive(mask_0=np.ones((2, 2))), "mask_0: wrong dtype .*float64.*float32"),
        (archive(mask_0=np.ones((3, 2), np.float32)), r"segs\.0: mask: wrong shape"),
        (archive(mask_0=np.full((2, 2), 7, np.float32)), r"segs\.0: mask: values from 7"),
    ],
)
def test_malformed_files_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        tools.load(io.BytesIO(data))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tools.load(tmp_path / "none.npz")


def test_preview_tints_masks_and_scales_segs() -> None:
    black = Image.new("RGB", (128, 96))
    flat = np.asarray(tools.preview_image(black, SEGS, boxes=False, labels=False))
    expected = tools.combined_mask(scaled_to(SEGS, (96, 128))) > 0
    np.testing.assert_array_equal(flat.any(axis=2), expected)
    drawn = np.asarray(tools.preview_image(black, SEGS))
    assert drawn.any(axis=2).sum() > expected.sum()
    outlines = np.asarray(tools.preview_image(black, SEGS, masks=False, labels=False))
    assert 0 < outlines.any(axis=2).sum() < expected.sum()
    assert not np.asarray(tools.preview_image(black, EMPTY)).any()
