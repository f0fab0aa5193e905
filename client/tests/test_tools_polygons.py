"""SEGS from polygons and from COCO."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from segs_client import InvalidRequest, tools
from segs_client.tools.polygons import Ring, Rule

SIZE = (24, 32)
SQUARE = [[2, 3], [12, 3], [12, 13], [2, 13]]
HOLE = [[4, 5], [8, 5], [8, 9], [4, 9]]


def inside(point: tuple[float, float], ring: Ring) -> bool:
    """Even-odd rule, one point at a time."""
    x, y = point
    odd = False
    for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True):
        if (y1 <= y) != (y2 <= y) and x >= x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            odd = not odd
    return odd


@pytest.mark.parametrize("rule", ["even-odd", "union"])
@pytest.mark.parametrize("seed", range(20))
def test_polygons_hold_the_pixels_whose_centres_they_hold(seed: int, rule: Rule) -> None:
    random = np.random.default_rng(seed)
    corners = random.integers(3, 9, 2)
    rings = [random.uniform((-5, -5), (37, 29), (count, 2)).tolist() for count in corners]
    expected = np.zeros(SIZE, bool)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            hits = [inside((x + 0.5, y + 0.5), ring) for ring in rings]
            expected[y, x] = sum(hits) % 2 if rule == "even-odd" else any(hits)
    segs = tools.from_polygons([rings], SIZE, rule=rule, crop_factor=1.5)
    np.testing.assert_array_equal(tools.combined_mask(segs), expected)
    rows, columns = np.nonzero(expected)
    assert segs[0].bbox == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_ring_in_a_ring_is_a_hole_unless_united() -> None:
    holed, united = (
        tools.from_polygons([[SQUARE, HOLE]], SIZE, rule=rule, crop_factor=1)[0]
        for rule in ("even-odd", "union")
    )
    assert (holed.mask.sum(), united.mask.sum()) == (84, 100)
    assert holed.bbox == holed.crop_region == (2, 3, 12, 13)


def test_polygons_bring_labels_and_leave_out_what_has_no_pixel() -> None:
    outside = [[40, 40], [50, 40], [50, 50]]
    objects = [[SQUARE], [outside], [HOLE]]
    with pytest.warns(UserWarning, match="1 of 3 polygons have no pixel in the picture, .* PIL's"):
        segs = tools.from_polygons(objects, SIZE, labels=list("abc"), confidences=[0.1, 0.2, 0.3])
    assert [(seg.label, seg.confidence) for seg in segs] == [("a", 0.1), ("c", 0.3)]
    assert len(tools.from_polygons([], SIZE)) == 0
    assert len(tools.from_polygons([[]], SIZE)) == 0


@pytest.mark.parametrize(
    ("objects", "options", "words"),
    [
        ([[SQUARE[:2]]], {}, r"objects\.0\.0: not a ring .*three vertices"),
        ([[SQUARE], [[1, 2, 3]]], {}, r"objects\.1\.0: not a ring"),
        ([["abc"]], {}, "not a ring"),
        ([[[*SQUARE, [np.nan, 1]]]], {}, "not finite"),
        ([[SQUARE]], {"labels": []}, "labels: 0 given; allowed: 1"),
        ([[SQUARE]], {"rule": "odd"}, "rule: unknown .*'even-odd', 'union'"),
        ([[SQUARE]], {"confidences": ["x"]}, r"confidences\.0: not a number"),
        ([["ab", "cd", "ef"]], {}, r"objects\.0\.0: not a ring"),
        ([[[["1", "2"], ["3", "4"], ["5", "9"]]]], {}, r"objects\.0\.0: not a ring"),
    ],
)
def test_bad_polygons(objects: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        tools.from_polygons(objects, SIZE, **options)


IN_PARTS = [[0.1, 0.1], [0.9, 0.1], [0.9, 1], [0.1, 0.9]]
FLAT = [number for vertex in IN_PARTS for number in vertex]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: tools.from_polygons([[], [IN_PARTS]], SIZE), "objects"),
        (lambda: tools.from_coco([{"segmentation": [FLAT]}], SIZE), "annotations.segmentation"),
        (
            lambda: tools.from_coco([{"segmentation": [FLAT, FLAT]}, {"bbox": [1, 2, 3, 4]}], SIZE),
            "annotations.segmentation",
        ),
        (
            lambda: tools.from_supervision(
                SimpleNamespace(xyxy=[[1, 2, 9, 9]], data={"xyxyxyxy": np.array([IN_PARTS])}), SIZE
            ),
            "xyxyxyxy",
        ),
    ],
)
def test_vertices_in_parts_of_the_sides_are_refused(make: Any, field: str) -> None:
    with pytest.raises(InvalidRequest, match=r"all in 0\.\.1 .*allowed: pixels") as caught:
        make()
    assert caught.value.field == field


def test_whole_vertices_may_be_those_of_the_first_pixel() -> None:
    corner = [[0, 0], [1, 0], [1, 1], [0, 1]]
    assert tools.from_polygons([[corner]], SIZE)[0].bbox == (0, 0, 1, 1)
    (seg,) = tools.from_coco([{"segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]]}], SIZE)
    assert seg.bbox == (0, 0, 1, 1)
    assert len(tools.from_polygons([[IN_PARTS], [SQUARE]], SIZE)) == 2


@pytest.mark.parametrize(
    "ring",
    [
        [[40, 40], [50, 40], [50, 50]],
        [[-9, -9], [-1, -9], [-1, -1]],
        [[4.6, 2], [5.4, 2], [5.4, 9], [4.6, 9]],  # between two columns of centres
    ],
    ids=["beyond", "before", "thin"],
)
def test_polygons_without_a_pixel_are_warned_of(ring: Any) -> None:
    words = "1 of 2 polygons have no pixel in the picture, 32 wide and 24 high, .* PIL's is"
    with pytest.warns(UserWarning, match=words):
        assert len(tools.from_polygons([[SQUARE], [ring]], SIZE)) == 1
    flat = [[number for vertex in each for number in vertex] for each in (SQUARE, ring)]
    annotations = [{"segmentation": [each]} for each in flat]
    with pytest.warns(UserWarning, match=words):
        assert len(tools.from_coco([*annotations, {"bbox": [1, 2, 3, 4]}], SIZE)) == 2


def test_empty_run_lengths_are_left_out_silently() -> None:
    empty = {"size": list(SIZE), "counts": [SIZE[0] * SIZE[1]]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(tools.from_coco([{"segmentation": empty}], SIZE)) == 0


@pytest.mark.parametrize(
    "bbox", [[5, 5, 0, 10], [5.5, 5, 0.0, 10], [5, 5, 10, -1], [5.5, 6.5, -0.5, 10], [99, 9, 0, 1]]
)
def test_boxes_without_area_have_their_own_warning(bbox: Any) -> None:
    with pytest.warns(UserWarning) as caught:
        segs = tools.from_coco([{"bbox": [1, 2, 3, 4]}, {"bbox": bbox}], SIZE)
    assert [seg.bbox for seg in segs] == [(1, 2, 4, 6)]
    assert [str(each.message) for each in caught] == [
        "1 of 2 boxes have a width or height of 0 or less, and are left out"
    ]


class CountedReads(dict[str, Any]):
    """An annotation that counts how often its box is read."""

    reads = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.reads += key == "bbox"
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.reads += key == "bbox"
        return super().__getitem__(key)


def test_a_plain_box_is_read_once() -> None:
    annotation = CountedReads(bbox=[1, 2, 3, 4])
    assert len(tools.from_coco([annotation], SIZE)) == 1
    assert annotation.reads == 1


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(n) for n in np.diff([0, *changes, mask.size])]


def compressed(counts: list[int]) -> str:
    """The string form, from its description: 5 bits a character, the fourth and later numbers
    as differences to the number two before."""
    text = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            group, value = value & 31, value >> 5
            done = value == (-1 if group & 16 else 0)
            text += chr(48 + group + (0 if done else 32))
            if done:
                break
    return text


@pytest.mark.parametrize("seed", range(10))
def test_run_lengths_plain_and_compressed(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = np.repeat(np.repeat(random.random((6, 8)) < 0.5, 40, axis=0), 30, axis=1)
    counts = run_lengths(mask)
    for form in (counts, compressed(counts), compressed(counts).encode()):
        rle = {"size": list(mask.shape), "counts": form}
        np.testing.assert_array_equal(tools.decode_rle(rle), mask)


def test_run_lengths_as_the_coco_api_writes_them() -> None:
    counts = "b11S30000000hNm0_NSOa1m0_NSOa1_2iN0d0\\Od0UNW10^N"
    expected = np.zeros((100, 12), bool)
    expected[10:40, 5:9] = expected[30:90, 7:10] = expected[50] = True
    np.testing.assert_array_equal(tools.decode_rle({"size": [100, 12], "counts": counts}), expected)


@pytest.mark.parametrize(
    ("rle", "words"),
    [
        ({"size": [2, 2], "counts": [1, 2]}, "rle.counts: 3 pixels.*4 in all"),
        ({"size": [2, 2], "counts": [-1, 5]}, "lengths from 0 on"),
        ({"size": [2, 2], "counts": ""}, "0 pixels"),
        ({"size": [2, 2], "counts": "T"}, "ends in the middle"),
        ({"size": [2, 2], "counts": "é"}, "not COCO's run lengths"),
        ({"size": [2, 2], "counts": "o" * 99}, "not COCO's run lengths"),
        ({"size": [2, 2]}, "not run lengths"),
        ({"counts": [4]}, "size: not a size"),
    ],
)
def test_bad_run_lengths(rle: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        tools.decode_rle(rle)


def test_coco_of_every_kind() -> None:
    mask = np.zeros(SIZE, bool)
    mask[4:9, 20:30] = True
    flat = [float(number) for vertex in SQUARE for number in vertex]
    annotations = [
        {"category_id": 1, "segmentation": [flat, [20, 20, 22, 20, 22, 22, 20, 22]]},
        {
            "category_id": 2,
            "score": 0.25,
            "segmentation": {"size": SIZE, "counts": run_lengths(mask)},
        },
        {"category_id": 2, "bbox": [1.5, 2, 3, 4.25]},
        {"category_id": 1, "bbox": [100, 100, 5, 5]},
    ]
    with pytest.warns(UserWarning, match="1 of 2 boxes are outside"):
        segs = tools.from_coco(
            json.loads(json.dumps(annotations)), SIZE, categories={1: "cat", 2: "dog"}
        )
    assert [(seg.label, seg.confidence, seg.bbox) for seg in segs] == [
        ("cat", 1.0, (2, 3, 22, 22)),
        ("dog", 0.25, (20, 4, 30, 9)),
        ("dog", 1.0, (1.5, 2, 4.5, 6.25)),
    ]
    assert [seg.mask.sum() for seg in segs] == [104, 50, 20]
    assert tools.from_coco(annotations[:3], SIZE)[0].label == ""
    assert len(tools.from_coco([], SIZE)) == 0


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({}, r"annotations\.0\.bbox: not a box"),
        ({"bbox": [1, 2, 3]}, "not a box"),
        ({"bbox": [1, 2, float("nan"), 3]}, "not a box"),
        ({"segmentation": [[1, 2, 3]]}, r"annotations\.0\.segmentation\.0: not a polygon"),
        ({"segmentation": [[1, 2, 3, 4]]}, "not a ring"),
        ({"segmentation": {"size": [2, 2], "counts": [4]}}, "not the picture's"),
        ({"bbox": [1, 2, 1 << 21, 4], "category_id": 1}, r"annotations\.0\.bbox of 'cat': not a b"),
        ({"bbox": [1, 2, 3, 4], "category_id": 9}, r"category_id: unknown \(got 9\); allowed: 1"),
        ({"bbox": [1, 2, 3, 4], "category_id": 1, "score": "x"}, "score: not a number"),
    ],
)
def test_bad_annotations(annotation: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        tools.from_coco([annotation], SIZE, categories={1: "cat"})
