"""Whole COCO documents, and annotations of several pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segs_client import InvalidRequest, tools

SIZE = (20, 30)
FIRST = {"id": 1, "image_id": 7, "category_id": 17, "bbox": [2.5, 3, 10, 8.25], "score": 0.5}
SECOND = {"id": 2, "image_id": 9, "category_id": 18, "segmentation": [[2, 2, 8, 2, 8, 8, 2, 8]]}
DOCUMENT: dict[str, Any] = {
    "info": {},
    "images": [
        {"id": 7, "file_name": "a/cat.png", "height": 20, "width": 30},
        {"id": 9, "file_name": "b/dog.png", "height": 40, "width": 50},
        {"id": 11, "file_name": "c/none.png", "height": 4, "width": 5},
    ],
    "annotations": [FIRST, SECOND],
    "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
}
ONE = {**DOCUMENT, "images": DOCUMENT["images"][:1], "annotations": [FIRST]}


@pytest.mark.parametrize("form", ["dict", "path", "text"])
def test_a_document_of_one_picture(form: str, tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(ONE))
    source: Any = {"dict": ONE, "path": path, "text": str(path)}[form]
    segs = tools.from_coco(source)
    assert segs.size == SIZE
    assert [(seg.label, seg.bbox, seg.confidence) for seg in segs] == [
        ("cat", (2.5, 3, 12.5, 11.25), 0.5)
    ]
    assert tools.from_coco(source, SIZE, categories={17: "lion"})[0].label == "lion"


@pytest.mark.parametrize(
    ("image_id", "size", "labels"),
    [
        (7, (20, 30), ["cat"]),
        ("a/cat.png", (20, 30), ["cat"]),
        ("dog.png", (40, 50), ["dog"]),
        (11, (4, 5), []),
    ],
)
def test_one_picture_of_several(image_id: int | str, size: Any, labels: list[str]) -> None:
    segs = tools.from_coco(DOCUMENT, image_id=image_id)
    assert segs.size == size
    assert [seg.label for seg in segs] == labels


def test_annotations_of_several_pictures() -> None:
    segs = tools.from_coco([FIRST, SECOND], SIZE, image_id=9, categories=DOCUMENT["categories"])
    assert [seg.label for seg in segs] == ["dog"]
    (seg,) = tools.from_coco(iter([FIRST]), SIZE)
    assert (seg.label, seg.bbox) == ("", (2.5, 3, 12.5, 11.25))
    assert len(tools.from_coco({"annotations": [FIRST]}, SIZE)) == 1


@pytest.mark.parametrize(
    ("bbox", "kept"),
    [
        ([2, 3, 10, 8], (2, 3, 12, 11)),
        ([-4.5, -2, 10, 8], (-4.5, -2, 5.5, 6)),
        ([5.25, 6.5, 0.5, 0.25], (5, 6, 6, 7)),  # below a pixel: the pixel that it touches
        ([29.5, 3, 10, 8], (29.5, 3, 39.5, 11)),
    ],
)
def test_boxes_keep_their_fractions(bbox: list[float], kept: Any) -> None:
    (seg,) = tools.from_coco([{"bbox": bbox}], SIZE)
    assert seg.bbox == kept
    assert [type(edge) for edge in seg.bbox] == [type(edge) for edge in kept]
    assert seg.mask.any()


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (DOCUMENT, {}, r"image_id: 3 pictures of the document; allowed: .* 7 \(a/cat.png\), 9"),
        (DOCUMENT, {"image_id": 8}, r"0 pictures of the document have it \(got 8\); allowed"),
        (DOCUMENT, {"image_id": "x.png"}, r"have it \(got 'x.png'\)"),
        (ONE, {"size": (30, 20)}, r"size: differs \(got \[30, 20\]\); allowed: \[20, 30\]"),
        ({**ONE, "images": [{"id": 7}]}, {}, "size: not a size"),
        ({**ONE, "images": {"7": {}}}, {}, "images: not a list of images"),
        ({**ONE, "categories": [{"id": 1}]}, {}, "categories: not categories"),
        ({**ONE, "categories": []}, {}, r"annotations\.0\.category_id: unknown \(got 17\)"),
        (FIRST, {"size": SIZE}, r"annotations: missing in the dict \(got 'id, image_id"),
        ([FIRST, SECOND], {"size": SIZE}, r"the annotations are of 2 pictures; allowed: .* 7, 9"),
        ([FIRST], {}, "size: required but for a document"),
        (["bbox"], {"size": SIZE}, r"annotations\.0: not an annotation \(got 'bbox'\)"),
        (5, {"size": SIZE}, r"annotations: not a list \(got 'int'\)"),
    ],
    ids=str,
)
def test_what_is_refused(source: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        tools.from_coco(source, **options)


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(InvalidRequest, match=r"annotations: .*broken\.json: not JSON"):
        tools.from_coco(path)
    with pytest.raises(OSError, match=r"nothing\.json"):
        tools.from_coco(tmp_path / "nothing.json")
