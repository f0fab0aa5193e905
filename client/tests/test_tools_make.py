"""SEGS from polygons, COCO, detectors and tiles."""

from __future__ import annotations

import json
from itertools import pairwise
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


def full_mask(segs: Any) -> npt.NDArray[np.bool_]:
    return np.asarray(tools.combined_mask(segs) > 0)


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
    np.testing.assert_array_equal(full_mask(segs), expected)
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
    ],
)
def test_bad_polygons(objects: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        tools.from_polygons(objects, SIZE, **options)


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
    segs = tools.from_coco(
        json.loads(json.dumps(annotations)), SIZE, categories={1: "cat", 2: "dog"}
    )
    assert [(seg.label, seg.confidence, seg.bbox) for seg in segs] == [
        ("cat", 1.0, (2, 3, 22, 22)),
        ("dog", 0.25, (20, 4, 30, 9)),
        ("dog", 1.0, (1, 2, 5, 7)),
    ]
    assert [seg.mask.sum() for seg in segs] == [104, 50, 20]
    assert tools.from_coco(annotations, SIZE)[0].label == ""
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
        ({"bbox": [1, 2, 3, 4], "category_id": 9}, r"category_id: unknown \(got 9\); allowed: 1"),
        ({"bbox": [1, 2, 3, 4], "category_id": 1, "score": "x"}, "score: not a number"),
    ],
)
def test_bad_annotations(annotation: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        tools.from_coco([annotation], SIZE, categories={1: "cat"})


class Tensor:
    """As much of torch's as is used."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> npt.NDArray[Any]:
        return self.values

    def __array__(self, dtype: Any = None, copy: Any = None) -> npt.NDArray[Any]:
        raise TypeError("can't convert a device tensor to numpy")


XYXY = [[1.5, 2, 9, 9.2], [-4, -4, 3, 3], [40, 40, 50, 50]]


@pytest.mark.parametrize("form", [np.array, Tensor])
def test_detections_without_masks(form: Any) -> None:
    detections = SimpleNamespace(
        xyxy=form(XYXY),
        mask=None,
        confidence=form([0.5, 0.25, 1]),
        class_id=form([1, 0, 0]),
        data={},
    )
    segs = tools.from_supervision(detections, SIZE, names={0: "cat", 1: "dog"}, crop_factor=1)
    assert [(seg.label, seg.confidence, seg.bbox) for seg in segs] == [
        ("dog", 0.5, (1, 2, 9, 10)),
        ("cat", 0.25, (0, 0, 3, 3)),
    ]
    assert all(seg.mask.min() == 1 for seg in segs)
    assert tools.from_supervision(detections, SIZE)[0].label == ""
    with pytest.raises(InvalidRequest, match="size: required"):
        tools.from_supervision(detections)
    with pytest.raises(InvalidRequest, match=r"names: lacks a class \(got 1\); allowed: 0"):
        tools.from_supervision(detections, SIZE, names={0: "cat"})


def test_detections_with_masks_and_names() -> None:
    masks = np.zeros((3, *SIZE), bool)
    masks[0, 3:6, 3:6] = True
    detections = SimpleNamespace(
        xyxy=np.array(XYXY), mask=masks, confidence=None, class_id=None,
        data={"class_name": np.array(["a", "b", "c"])},
    )  # fmt: skip
    segs = tools.from_supervision(detections, crop_factor=2)
    assert segs.size == SIZE
    assert [(seg.label, seg.confidence, seg.mask.sum()) for seg in segs] == [
        ("a", 1, 9),
        ("b", 1, 0),
    ]
    np.testing.assert_array_equal(full_mask(segs), masks[0])


def test_no_detections() -> None:
    none = SimpleNamespace(
        xyxy=np.empty((0, 4)), mask=None, confidence=None, class_id=None, data={}
    )
    assert len(tools.from_supervision(none, SIZE)) == 0
    boxes = SimpleNamespace(xyxy=Tensor(np.empty((0, 4))), conf=Tensor([]), cls=Tensor([]))
    for masks in (None, SimpleNamespace(data=Tensor(np.empty((0, 64, 64))))):
        result = SimpleNamespace(orig_shape=SIZE, names={}, boxes=boxes, masks=masks)
        assert len(tools.from_ultralytics(result)) == 0
    assert len(tools.from_ultralytics(SimpleNamespace(orig_shape=SIZE, boxes=None))) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"xyxy": None}, "xyxy: not boxes"),
        ({"xyxy": np.zeros((2, 5))}, r"\[2, 5\].*\[N, 4\]"),
        ({"xyxy": np.full((2, 4), np.nan)}, "not finite"),
        ({"confidence": np.ones(3)}, "confidence: 3 given; allowed: 2"),
        ({"mask": np.zeros((2, 5, 5), bool)}, r"mask: wrong shape .*\[2, 24, 32\]"),
    ],
)
def test_bad_detections(changes: dict[str, Any], words: str) -> None:
    good = {
        "xyxy": np.array(XYXY[:2]),
        "mask": None,
        "confidence": None,
        "class_id": None,
        "data": {},
    }
    with pytest.raises(InvalidRequest, match=words):
        tools.from_supervision(SimpleNamespace(**{**good, **changes}), SIZE)


@pytest.mark.parametrize("shape", [(24, 32), (48, 64), (64, 64), (96, 96), (32, 64)])
def test_ultralytics_masks_of_the_networks_resolution(shape: tuple[int, int]) -> None:
    scale = min(shape[0] / SIZE[0], shape[1] / SIZE[1])
    top, left = ((shape[at] - round(SIZE[at] * scale)) // 2 for at in (0, 1))
    x1, y1, x2, y2 = (round(edge * scale) for edge in (6, 3, 18, 15))
    masks = np.zeros((1, *shape), np.float32)
    masks[0, top + y1 : top + y2, left + x1 : left + x2] = 1
    result = SimpleNamespace(
        orig_shape=SIZE,
        names={0: "cat", 3: "dog"},
        boxes=SimpleNamespace(xyxy=Tensor([[6, 3, 18, 15]]), conf=Tensor([0.5]), cls=Tensor([3.0])),
        masks=SimpleNamespace(data=Tensor(masks)),
    )
    segs = tools.from_ultralytics(result)
    expected = np.zeros(SIZE, bool)
    expected[3:15, 6:18] = True
    np.testing.assert_array_equal(full_mask(segs), expected)
    assert (segs[0].label, segs[0].confidence) == ("dog", 0.5)


def test_the_real_supervision() -> None:
    supervision = pytest.importorskip("supervision")
    detections = supervision.Detections(
        xyxy=np.array(XYXY[:2]),
        class_id=np.array([0, 1]),
        data={"class_name": np.array(["a", "b"])},
    )
    assert [seg.label for seg in tools.from_supervision(detections, SIZE)] == ["a", "b"]
    assert len(tools.from_supervision(supervision.Detections.empty(), SIZE)) == 0


def test_the_real_ultralytics() -> None:
    results = pytest.importorskip("ultralytics.engine.results")
    torch = pytest.importorskip("torch")
    masks = torch.zeros(1, 64, 64)
    masks[0, 14:38, 12:36] = 1  # the picture is scaled by 2, with 8 rows above and below
    result = results.Results(
        np.zeros((*SIZE, 3), np.uint8), path="", names={0: "cat"},
        boxes=torch.tensor([[6.0, 3.0, 18.0, 15.0, 0.5, 0.0]]), masks=masks,
    )  # fmt: skip
    (seg,) = tools.from_ultralytics(result, crop_factor=1)
    assert (seg.label, seg.confidence, seg.bbox) == ("cat", 0.5, (6, 3, 18, 15))
    assert seg.mask.min() == 1


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
