"""What is given in place of SEGS or boxes is named, with what makes SEGS of it."""

from __future__ import annotations

import re
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensors import Tensor

from segs_client import InvalidRequest, Seg, Segs, tools
from segs_client.messages import build
from segs_client.segs_hints import hint_for

SIZE = (96, 128)
SEG = namedtuple("SEG", ("cropped_mask", "crop_region", "bbox"))
FACE = SEG(np.ones((30, 40)), [10, 20, 50, 50], [15, 25, 40, 45])
BOX = [15.0, 25.0, 40.0, 45.0]
ROWS = np.array([[*BOX, 0.5, 0.0]])
DOCUMENT = {"images": [], "annotations": [], "categories": []}
ULTRALYTICS = SimpleNamespace(orig_shape=SIZE, boxes=None)
SUPERVISION = SimpleNamespace(xyxy=np.array([BOX]))
OWN = Seg(np.ones((30, 40)), (15, 25, 40, 45), (10, 20, 50, 50))
RING = [[1, 2], [9, 2], [9, 9]]
KNOWN = {
    "Impact Pack's": ((SIZE, [FACE]), "a size and a list", "tools.from_impact_pack"),
    "a node's outputs": (((SIZE, [FACE]),), "a size and a list", "tools.from_impact_pack"),
    "an empty one's": (((0, 0), []), "a size and a list", "tools.from_impact_pack"),
    "a list of SEGs": ([FACE], "SEGs of Impact Pack", "tools.from_impact_pack"),
    "one SEG": (FACE, "SEGs of Impact Pack", "tools.from_impact_pack"),
    "dicts of SEGs": ([FACE._asdict()], "SEGs of Impact Pack", "tools.from_impact_pack"),
    "a list of Seg": ([OWN], "a Seg without the picture's size", "Segs(size, [seg, …])"),
    "a Seg": (OWN, "a Seg without the picture's size", "Segs(size, [seg, …])"),
    "a document": (DOCUMENT, "a COCO document", "tools.from_coco"),
    "annotations": ([{"bbox": [1, 2, 3, 4]}], "COCO annotations", "tools.from_coco"),
    "polygons of COCO": ([{"segmentation": [[1, 2]]}], "COCO annotations", "tools.from_coco"),
    "an annotation": ({"bbox": [1, 2, 3, 4]}, "COCO annotations", "tools.from_coco"),
    "a file of COCO": (Path("found.JSON"), "a path", "tools.from_coco"),
    "a file of SEGS": ("face.npz", "a path", "tools.load"),
    "a file of a mask": ("mask.png", "a path", "Segs.from_mask"),
    "a result": (ULTRALYTICS, "results of Ultralytics", "tools.from_ultralytics"),
    "a list of results": ([ULTRALYTICS], "results of Ultralytics", "tools.from_ultralytics"),
    "detections": (SUPERVISION, "detections", "tools.from_supervision"),
    "a list of detections": ([SUPERVISION], "detections", "tools.from_supervision"),
    "torchvision's": ([{"boxes": [BOX]}], "a detector's dict", "tools.from_detections"),
    "mmdet's": ({"bboxes": [BOX]}, "a detector's dict", "tools.from_detections"),
    "rows": (ROWS, "rows of 6 numbers", "tools.from_detections"),
    "a tensor of rows": (Tensor(ROWS[:, :5]), "rows of 5 numbers", "tools.from_detections"),
    "a list of rows": (ROWS.tolist(), "rows of 6 numbers", "tools.from_detections"),
    "a list of arrays": (list(ROWS), "rows of 6 numbers", "tools.from_detections"),
    "rings": ([RING], "polygons", "tools.from_polygons"),
    "objects of rings": ([[RING]], "polygons", "tools.from_polygons"),
    "arrays of vertices": ([np.array(RING)], "polygons", "tools.from_polygons"),
    "a mask": (np.zeros(SIZE), "a mask", "Segs.from_mask"),
    "masks": (np.zeros((2, *SIZE)), "masks", "Segs.from_masks"),
    "a picture": (Image.new("L", SIZE[::-1]), "a picture", "Segs.from_mask"),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_is_named_with_its_maker(name: str) -> None:
    given, what, maker = KNOWN[name]
    with pytest.raises(InvalidRequest) as caught:
        build(np.zeros((*SIZE, 3)), given, pipeline="base")
    assert caught.value.field == "segs"
    assert str(caught.value).startswith(f"segs: {what} (got '")
    assert f"; allowed: Segs, as {maker}" in str(caught.value)


def test_the_makers_exist() -> None:
    for given, _, _ in KNOWN.values():
        hint = hint_for(given)
        assert hint is not None
        place, *function = re.split(r"[^\w.]", hint.maker)[0].split(".")
        maker: Any = {"tools": tools, "Segs": Segs}[place]
        assert callable(getattr(maker, *function) if function else maker)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((40, 50, 90, 90), r"segs: one box.*a list of boxes"),
        (np.array([40, 50, 90, 90]), r"segs: one box.*a list of boxes"),
        (7, r"segs: not SEGS \(got 'int'\); allowed: Segs, or a list .*from_impact_pack"),
        (None, r"segs: not SEGS \(got 'NoneType'\)"),
        (b"\x89PNG", r"segs: not SEGS \(got 'bytes'\)"),
        ({"faces": 3}, r"segs: not SEGS \(got 'dict'\)"),
        ([None], r"segs\.items\.0\.bbox: not a box.*from_ultralytics"),
        ([BOX, BOX[:3]], r"segs\.items\.1\.bbox: not a box"),
        ([BOX[:3]], r"segs\.items\.0\.bbox: not a box"),
    ],
)
def test_what_is_not_known_is_refused(given: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        build(np.zeros((*SIZE, 3)), given, pipeline="base")


@pytest.mark.parametrize(
    "given",
    [[BOX], [tuple(BOX)], np.array([BOX]), Tensor([BOX]), [np.array(BOX)], [Tensor(BOX)], [], ()],
)
def test_boxes_need_no_hint(given: Any) -> None:
    assert hint_for(given) is None
    built = build(np.zeros((*SIZE, 3)), given, pipeline="base")
    assert [item.bbox for item in built.request.segs.items] == [tuple(BOX)] * len(list(given))


def test_iterators_are_read_once() -> None:
    built = build(np.zeros((*SIZE, 3)), iter([BOX]), pipeline="base")  # type: ignore[arg-type]
    assert [item.bbox for item in built.request.segs.items] == [tuple(BOX)]
    with pytest.raises(InvalidRequest, match=r"SEGs of Impact Pack .*from_impact_pack"):
        build(np.zeros((*SIZE, 3)), iter([FACE]), pipeline="base")  # type: ignore[arg-type]
