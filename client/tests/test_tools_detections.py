"""SEGS from what detectors return."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensors import Tensor

from segs_client import InvalidRequest, Segs, tools

SIZE = (24, 32)
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
        ("dog", 0.5, (1.5, 2, 9, float(np.float32(9.2)))),
        ("cat", 0.25, (-4, -4, 3, 3)),
    ]
    assert [seg.crop_region for seg in segs] == [(1, 2, 8, 9), (0, 0, 7, 7)]
    filled = np.zeros(SIZE)
    filled[2:9, 1:8] = filled[:4, :4] = 1  # both ends included, inside the crop region
    np.testing.assert_array_equal(tools.combined_mask(segs), filled)
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
    np.testing.assert_array_equal(tools.combined_mask(segs), masks[0])


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
        ({"xyxy": [["a"] * 4] * 2}, "xyxy: not boxes"),
        ({"xyxy": np.zeros((2, 5))}, r"\[2, 5\].*\[N, 4\]"),
        ({"xyxy": np.full((2, 4), np.nan)}, "not finite"),
        ({"confidence": np.ones(3)}, "confidence: 3 given; allowed: 2"),
        ({"mask": np.zeros((2, 5, 5), bool)}, r"mask: wrong shape .*\[2, 24, 32\]"),
        ({"mask": np.full((2, *SIZE), 9)}, r"detections\.0\.mask of 'a': values from 9 to 9"),
        ({"confidence": ["x", "y"]}, r"confidence\.0: not a number \(got .*x"),
        ({"class_id": ["x", "y"]}, r"class_id\.0: not a number"),
    ],
)
def test_bad_detections(changes: dict[str, Any], words: str) -> None:
    good = {
        "xyxy": np.array(XYXY[:2]),
        "mask": None,
        "confidence": None,
        "class_id": [0, 0],
        "data": {},
    }
    with pytest.raises(InvalidRequest, match=words):
        tools.from_supervision(SimpleNamespace(**{**good, **changes}), SIZE, names=["a"])


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
    mask = tools.combined_mask(segs)
    np.testing.assert_array_equal(mask >= 0.5, expected)
    is_soft = bool(((mask > 0) & (mask < 1)).any())
    assert is_soft is (scale != round(scale))  # no threshold: where pixels divide, edges are soft
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
    for given in (result, [result]):
        (seg,) = tools.from_ultralytics(given, crop_factor=1)
        assert (seg.label, seg.confidence, seg.bbox) == ("cat", 0.5, (6, 3, 18, 15))
        assert seg.mask.min() == 1
    for part, name in ((result.boxes, "Boxes"), (result.masks, "Masks")):
        with pytest.raises(InvalidRequest, match=rf"a part of a result \(got '{name}'\)"):
            tools.from_ultralytics(part)
    oriented = torch.tensor([[12.0, 12.0, 10.0, 6.0, 0.5, 0.9, 0.0]])  # x, y, w, h, angle
    result = results.Results(
        np.zeros((*SIZE, 3), np.uint8), path="", names={0: "cat"}, obb=oriented
    )
    (seg,) = tools.from_ultralytics(result)
    assert seg.mask.sum() == 60
    assert len(tools.from_ultralytics(result[:0])) == 0
    with pytest.raises(InvalidRequest, match=r"a part of a result \(got 'OBB'\)"):
        tools.from_ultralytics(result.obb)


def a_result(**changes: Any) -> SimpleNamespace:
    boxes = SimpleNamespace(
        xyxy=Tensor([[6.25, 3, 18.5, 15]]), conf=Tensor([0.5]), cls=Tensor([0.0])
    )
    fields = {"orig_shape": SIZE, "names": {0: "cat"}, "boxes": boxes, "masks": None}
    return SimpleNamespace(**{**fields, **changes})


@pytest.mark.parametrize("form", [lambda one: one, lambda one: [one], lambda one: (one,)])
def test_a_list_of_one_picture_is_taken(form: Any) -> None:
    (seg,) = tools.from_ultralytics(form(a_result()))
    assert (seg.label, seg.bbox) == ("cat", (6.25, 3, 18.5, 15))
    detections = SimpleNamespace(xyxy=Tensor([[6.25, 3, 18.5, 15]]))
    (seg,) = tools.from_supervision(form(detections), SIZE)
    assert seg.bbox == (6.25, 3, 18.5, 15)


CORNERS = [[[6, 2], [14, 10], [10, 14], [2, 6]], [[40, 40], [50, 40], [50, 50], [40, 50]]]


@pytest.mark.parametrize("form", [np.array, Tensor])
def test_oriented_boxes_become_polygons(form: Any) -> None:
    obb = SimpleNamespace(xyxyxyxy=form(CORNERS), conf=form([0.5, 0.9]), cls=form([0.0, 0.0]))
    (seg,) = tools.from_ultralytics(a_result(boxes=None, obb=obb), crop_factor=1)
    assert (seg.bbox, seg.crop_region, seg.label) == ((2, 2, 14, 14), (2, 2, 14, 14), "cat")
    polygon = tools.from_polygons([[CORNERS[0]]], SIZE)
    np.testing.assert_array_equal(
        tools.combined_mask(Segs(SIZE, (seg,))), tools.combined_mask(polygon)
    )
    assert 0 < seg.mask.mean() < 0.6
    detections = SimpleNamespace(
        xyxy=form([[2, 2, 14, 14], [40, 40, 50, 50]]), data={"xyxyxyxy": form(CORNERS)}
    )
    (same,) = tools.from_supervision(detections, SIZE, crop_factor=1)
    np.testing.assert_array_equal(same.mask, seg.mask)
    empty = SimpleNamespace(xyxyxyxy=form(np.empty((0, 4, 2))), conf=form([]), cls=form([]))
    assert len(tools.from_ultralytics(a_result(boxes=None, obb=empty))) == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "result: 0 of them; allowed: an Ultralytics Results"),
        ([a_result(), a_result()], "result: 2 of them; .*of several pictures, one in each call"),
        ((each for each in [a_result()]), r"result: has no orig_shape \(got 'generator'\)"),
        ({"boxes": []}, r"result: has no orig_shape \(got 'dict'\); .*tools\.from_detections"),
        (SimpleNamespace(xyxy=[]), r"has no orig_shape \(got 'SimpleNamespace'\)"),
        ([[a_result()]], r"has no orig_shape \(got 'list'\)"),
        (None, r"has no orig_shape \(got 'NoneType'\)"),
        (
            SimpleNamespace(orig_shape=SIZE, xyxy=[], conf=[], cls=[], boxes=Tensor([])),
            r"result: a part of a result \(got 'SimpleNamespace'\); allowed: the Results that it",
        ),
        ([SimpleNamespace(orig_shape=SIZE, data=[])], "a part of a result .*from_detections"),
        (a_result(boxes=None, probs=SimpleNamespace(top1=0)), "a classification has no boxes"),
        (
            a_result(masks=SimpleNamespace(data=Tensor(np.zeros((2, 24, 32))))),
            "masks: 2 given; allowed: 1, one per box",
        ),
        (
            a_result(masks=SimpleNamespace(data=Tensor(np.zeros((24, 32))))),
            r"masks\.data: wrong shape \(got \[24, 32\]\); allowed: \[N, h, w\]",
        ),
    ],
)
def test_what_is_no_ultralytics_result(given: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        tools.from_ultralytics(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "detections: 0 of them; allowed: supervision"),
        (a_result(), r"detections: has no xyxy \(got 'SimpleNamespace'\)"),
        ({"bboxes": [], "labels": []}, r"has no xyxy \(got 'dict'\); .*tools\.from_detections"),
    ],
)
def test_what_is_no_supervision_result(given: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        tools.from_supervision(given, SIZE)


def test_arrays_of_other_detectors() -> None:
    mmdet = {"bboxes": [[1.5, 2, 9, 9]], "scores": [0.5], "labels": [1]}
    segs = tools.from_detections(
        mmdet["bboxes"], SIZE, confidence=mmdet["scores"], class_id=mmdet["labels"],
        names=["cat", "dog"],
    )  # fmt: skip
    assert [(seg.label, seg.confidence, seg.bbox) for seg in segs] == [("dog", 0.5, (1.5, 2, 9, 9))]
    soft = np.full((1, 1, *SIZE), 0.25, np.float32)
    torchvision = {"boxes": Tensor([[1.5, 2, 9, 9]]), "masks": Tensor(soft)}
    (seg,) = tools.from_detections(torchvision["boxes"], SIZE, mask=torchvision["masks"])
    assert set(np.unique(seg.mask)) == {0.25}
    for nothing in ([], np.empty((0, 4)), np.empty(0), Tensor([])):
        assert len(tools.from_detections(nothing, SIZE)) == 0
        assert len(tools.from_detections(nothing, SIZE, mask=np.empty((0, 5, 5)))) == 0


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, "abcd"),
        ({"threshold": 0.25}, "bcd"),  # itself excluded
        ({"drop_size": 9}, "bd"),
        ({"drop_size": 10}, "b"),
        ({"labels": ["a", "d"]}, "ad"),
        ({"labels": "b, c"}, "bc"),
        ({"labels": ""}, "abcd"),
        ({"labels": "x"}, ""),
        ({"threshold": 0.5, "labels": "all", "drop_size": 5}, "cd"),
    ],
)
def test_detections_are_chosen(options: dict[str, Any], kept: str) -> None:
    boxes = [[1, 1, 9.5, 9.5], [1, 1, 11.25, 12], [1, 1, 7, 20], [1, 1, 11, 20], [3, 3, 4, 9]]
    segs = tools.from_detections(
        boxes, SIZE, confidence=[0.25, 0.5, 0.75, 1, 1], class_name=list("abcde"), **options
    )
    assert "".join(seg.label for seg in segs) == kept


IN_PARTS = [[0.1, 0.2, 0.5, 0.6]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tools.from_detections(IN_PARTS, SIZE), r"xyxy: all in 0\.\.1"),
        (lambda: tools.from_supervision(SimpleNamespace(xyxy=np.array(IN_PARTS)), SIZE), "0..1"),
        (lambda: tools.from_coco([{"bbox": IN_PARTS[0]}], SIZE), r"bbox: all in 0\.\.1"),
        (
            lambda: tools.from_detections([[1, 2, 9, 9], [10, 10, 5, 5]], SIZE),
            r"xyxy\.1: not a box .*not a width and height",
        ),
    ],
)
def test_boxes_in_another_form_are_refused(make: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: tools.from_detections([[1, 2, 9, 9], [200, 5, 220, 20]], SIZE),
        lambda: tools.from_coco([{"bbox": [1, 2, 8, 7]}, {"bbox": [200, 5, 20, 15]}], SIZE),
    ],
)
def test_boxes_outside_the_picture_are_warned_of(make: Any) -> None:
    with pytest.warns(UserWarning, match="1 of 2 boxes are outside the picture, .* PIL's is"):
        assert len(make()) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda size: tools.from_detections([[1, 2, 9, 9]], size),
        lambda size: tools.from_supervision(SimpleNamespace(xyxy=np.array([[1, 2, 9, 9]])), size),
        lambda size: tools.from_coco([{"bbox": [1, 2, 8, 7]}], size),
        lambda size: tools.from_polygons([[[[1, 2], [9, 2], [9, 9]]]], size),
        lambda size: tools.tiles(size, 16, overlap=4),
    ],
)
@pytest.mark.parametrize("picture", [np.zeros((*SIZE, 3), np.uint8), Image.new("RGB", SIZE[::-1])])
def test_the_picture_may_be_the_size(make: Any, picture: Any) -> None:
    assert make(picture).size == SIZE
