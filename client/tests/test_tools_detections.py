"""SEGS from what detectors return."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from segs_client import InvalidRequest, tools

SIZE = (24, 32)
XYXY = [[1.5, 2, 9, 9.2], [-4, -4, 3, 3], [40, 40, 50, 50]]


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
    np.testing.assert_array_equal(tools.combined_mask(segs), expected)
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
