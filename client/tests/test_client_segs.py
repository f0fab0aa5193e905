"""Seg, Segs, crop regions and masks, against the golden cases where there are some."""

from __future__ import annotations

import io
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segs_client import InvalidRequest, Seg, Segs, crop_region, paste, scaled_to
from segs_client.contours import filled_regions
from segs_client.messages import build

GOLDEN = Path(__file__).parents[2] / "tests" / "data" / "golden"
REGIONS = json.loads((GOLDEN / "crop_regions.json").read_text())
MASKS = np.load(GOLDEN / "mask_to_segs.npz")
MASK_CASES = json.loads(bytes(MASKS["cases"]))


@pytest.mark.parametrize("case", REGIONS, ids=str)
def test_crop_region_golden(case: dict[str, Any]) -> None:
    size = (case["h"], case["w"])
    region = crop_region(case["bbox"], size, case["crop_factor"], case["crop_min_size"])
    assert list(region) == case["crop_region"]


@pytest.mark.parametrize("case", MASK_CASES, ids=lambda case: str(case["id"]))
def test_from_mask_golden(case: dict[str, Any]) -> None:
    options = {name: case[name] for name in ("combined", "bbox_fill", "crop_factor", "drop_size")}
    segs = Segs.from_mask(MASKS[f"in_{case['mask']}"], **options)
    found = [{"bbox": list(seg.bbox), "crop_region": list(seg.crop_region)} for seg in segs]
    assert found == case["segs"]
    for n, seg in enumerate(segs):
        np.testing.assert_array_equal(seg.mask, MASKS[f"m_{case['id']}_{n}"], strict=True)


def picture(text: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.array([[letter == "#" for letter in row] for row in text.split()])


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("...", "000"),
        ("#.#", "102"),
        ("#. .#", "10 01"),  # corners join
        ("### #.# ###", "111 111 111"),  # holes are filled
        ("##### #...# #.#.# #...# #####", "11111 " * 5),  # an island in a hole is part
        ("##. #.# ###", "110 111 111"),  # a corner closes the contour around a hole
        ("#.# #.# ###", "101 101 111"),
    ],
)
def test_filled_regions(text: str, labels: str) -> None:
    expected = np.array([[int(letter) for letter in row] for row in labels.split()])
    np.testing.assert_array_equal(filled_regions(picture(text)).labels, expected)


def test_filled_regions_of_a_spiral() -> None:
    spiral = np.zeros((101, 101), bool)
    row, column, step = 0, 0, 100
    spiral[0, 0] = True
    for turn in range(46):
        down, across = ((0, 1), (1, 0), (0, -1), (-1, 0))[turn % 4]
        for _ in range(step):
            row, column = row + down, column + across
            spiral[row, column] = True
        step -= 0 if turn == 0 else 2 * (turn % 2 == 0)
    regions = filled_regions(spiral)
    assert regions.boxes.tolist() == [[0, 0, 101, 101]]


def test_contours_of_four_megapixels_take_under_a_second() -> None:
    y, x = np.mgrid[0:2048, 0:2048]
    mask = (np.sin(x / 9) * np.sin(y / 11) > 0.2).astype(np.float32)
    start = time.process_time()
    regions = filled_regions(mask > 0)
    assert time.process_time() - start < 1
    assert len(regions.boxes) > 1000


def test_contour_fill_keeps_values_where_off() -> None:
    mask = np.zeros((40, 40), np.float32)
    mask[10:30, 10:30] = 0.25
    mask[15:20, 15:20] = 0
    assert Segs.from_mask(mask, crop_factor=1)[0].mask.min() == 1
    kept = Segs.from_mask(mask, crop_factor=1, contour_fill=False)[0].mask
    np.testing.assert_array_equal(kept, mask[10:30, 10:30])


def test_drop_size_is_the_least_side() -> None:
    mask = np.zeros((40, 40), np.float32)
    mask[:9, :20] = mask[20:30, 20:30] = 1
    assert [seg.bbox for seg in Segs.from_mask(mask, drop_size=10)] == [(20, 20, 30, 30)]


def test_empty_masks_and_boxes() -> None:
    assert len(Segs.from_mask(np.zeros((5, 5), np.uint8))) == 0
    assert len(Segs.from_mask(np.zeros((5, 5), np.uint8), combined=True)) == 0
    assert len(Segs.from_boxes([], (5, 5))) == 0


def test_combined_single_pixel_has_an_area() -> None:
    mask = np.zeros((9, 9), np.float32)
    mask[4, 4] = 1
    assert Segs.from_mask(mask, combined=True)[0].bbox == (4, 4, 5, 5)


def test_from_masks_keeps_order_and_labels() -> None:
    first, second = np.zeros((2, 30, 30), np.uint8)
    first[:12, :12] = second[15:, 15:] = 255
    segs = Segs.from_masks([first, second], labels=["a", "b"])
    assert [(seg.label, seg.bbox) for seg in segs] == [
        ("a", (0, 0, 12, 12)),
        ("b", (15, 15, 30, 30)),
    ]
    with pytest.raises(InvalidRequest, match="2 masks and 1 labels"):
        Segs.from_masks([first, second], labels=["a"])
    with pytest.raises(InvalidRequest, match=r"size: unequal .*\[30, 30\]"):
        Segs.from_masks([first, np.zeros((3, 3))])
    with pytest.raises(InvalidRequest, match=r"^masks\.1 of 'b': values from 3 to 3"):
        Segs.from_masks([first, np.full(first.shape, 3.0)], labels=["a", "b"])
    assert len(Segs.from_masks(np.stack([first, second]))) == 2


def test_from_boxes() -> None:
    segs = Segs.from_boxes(
        np.array([[2, 3, 6, 9], [0, 0, 4, 4]]),
        (20, 30),
        crop_factor=2,
        labels=["a", "b"],
        confidences=[0.5, 0.75],
    )
    assert [(seg.label, seg.confidence) for seg in segs] == [("a", 0.5), ("b", 0.75)]
    assert segs[0].crop_region == (0, 0, 8, 12)
    expected = np.zeros((12, 8), np.float32)
    expected[3:9, 2:6] = 1
    np.testing.assert_array_equal(segs[0].mask, expected, strict=True)


PICTURE = Image.new("RGB", (30, 20))
SIDEWAYS = Image.Exif()
SIDEWAYS[274] = 8


def file_of(picture: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, form, **options)
    return data.getvalue()


@pytest.mark.parametrize(
    "size",
    [
        (20, 30),
        [20, 30],
        np.array([20, 30]),
        PICTURE,
        Image.open(io.BytesIO(file_of(PICTURE.resize((20, 30)), exif=SIDEWAYS))),
        Image.open(io.BytesIO(file_of(PICTURE.resize((20, 30)), "TIFF", exif=SIDEWAYS))),
        np.zeros((20, 30, 3), np.uint8),
        np.zeros((20, 30)),
        np.zeros((1, 20, 30, 3)),
        file_of(PICTURE),
        file_of(PICTURE.resize((20, 30)), exif=SIDEWAYS),
    ],
)
def test_from_boxes_takes_the_size_from_the_picture(size: Any) -> None:
    assert Segs.from_boxes([(2, 3, 6, 9)], size).size == (20, 30)


@pytest.mark.parametrize("as_text", [True, False])
def test_from_boxes_takes_the_size_from_a_path(as_text: bool, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(file_of(PICTURE))
    assert Segs.from_boxes([(2, 3, 6, 9)], str(path) if as_text else path).size == (20, 30)
    with pytest.raises(FileNotFoundError):
        Segs.from_boxes([], tmp_path / "none.jpg")


@pytest.mark.parametrize("size", [(20, 30, 3), (20,), 5, None, np.zeros((3, 20, 30)), b"none"])
def test_from_boxes_refuses_what_has_no_size(size: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"not a size|wrong shape|not a readable picture"):
        Segs.from_boxes([(2, 3, 6, 9)], size)


def test_from_boxes_of_an_empty_array() -> None:
    assert len(Segs.from_boxes(np.zeros((0, 4)), (20, 30))) == 0


@pytest.mark.parametrize(
    ("segs_size", "picture_size", "words"),
    [
        ((20, 30), (30, 20), "30 wide and 20 high.* 20 wide and 30 high.* PIL's is"),
        ((40, 60), (30, 20), "PIL's is"),
        ((20, 30), (20, 20), r"boxes and masks are stretched to it$"),
        ((100, 100), (110, 100), "stretched"),
    ],
)
def test_another_aspect_ratio_is_warned_of(segs_size: Any, picture_size: Any, words: str) -> None:
    segs = Segs.from_boxes([(2, 2, 18, 18)], segs_size)
    picture = np.zeros((*picture_size, 3), np.uint8)
    with pytest.warns(UserWarning, match=words):
        build(picture, segs, pipeline="base")
    with pytest.warns(UserWarning, match=words):
        scaled_to(segs, picture_size)
    with pytest.warns(UserWarning, match=words):
        paste(picture, segs)


@pytest.mark.parametrize(
    ("segs_size", "picture_size"),
    [((20, 30), (20, 30)), ((40, 60), (20, 30)), ((667, 1000), (333, 500)), ((7, 9), (3, 4))],
)
def test_the_same_aspect_ratio_is_not(segs_size: Any, picture_size: Any) -> None:
    segs = Segs.from_boxes([(0, 0, 6, 6)], segs_size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(np.zeros((*picture_size, 3), np.uint8), segs, pipeline="base")
        scaled_to(segs, picture_size)


@pytest.mark.parametrize(
    ("boxes", "options", "words"),
    [
        ([(5, 5, 5, 9)], {}, r"boxes\.0: has no area .*x2 > x1"),
        ([(1, 1, 2, 2), (-6, 0, -1, 5)], {}, r"boxes\.1: outside the picture"),
        ([(0.5, 0, 1.25, 5)], {}, "smaller than a pixel"),
        ([(0, 0, 5)], {}, "not a box"),
        ([(100, 0, 110, 5)], {}, "outside the picture.*30 wide and 20 high"),
        ([(0, 0, 5, 5)], {"labels": []}, "labels: 0 given; allowed: 1, one per box"),
        ([(0, 0, 5, 5)], {"confidences": ["x"]}, r"confidences\.0: not a number \(got 'x'\)"),
    ],
)
def test_bad_boxes(boxes: Any, options: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        Segs.from_boxes(boxes, (20, 30), **options)


def test_seg_holds_read_only_copies() -> None:
    mask, image = np.zeros((4, 5), np.float32), np.zeros((4, 5, 3), np.float32)
    seg = Seg(mask, (0, 0, 5, 4), (0, 0, 5, 4), image=image)
    mask[:] = 1
    assert seg.mask.max() == 0
    assert seg.image is not None
    for array in (seg.mask, seg.image):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask": np.zeros((5, 4))}, r"mask: wrong shape \(got \[5, 4\]\); allowed: \[4, 5\]"),
        ({"mask": np.zeros((4, 5, 3))}, r"\[4, 5, 3\].*\[height, width\]"),
        ({"mask": np.zeros((4, 5), complex)}, "wrong dtype .*complex128.*whole numbers"),
        ({"mask": np.full((4, 5), 1.5)}, "values from 1.5 to 1.5.*0 … 1"),
        ({"mask": np.full((4, 5), np.nan)}, "not finite"),
        ({"image": np.zeros((4, 5))}, r"image: wrong shape .*\[height, width, 3\]"),
        ({"crop_region": (0, 0, 0, 4)}, "crop_region: has no area"),
        ({"bbox": "box"}, "bbox: not a box"),
        ({"confidence": "x"}, r"confidence: not a number \(got 'x'\); allowed: a finite number"),
        ({"confidence": np.nan}, "confidence: not a number"),
        ({"confidence": None}, "confidence: not a number"),
        ({"confidence": [0.5, 0.5]}, "confidence: not a number"),
    ],
)
def test_bad_seg(changes: dict[str, Any], words: str) -> None:
    good = {"mask": np.zeros((4, 5)), "bbox": (0, 0, 5, 4), "crop_region": (0, 0, 5, 4)}
    with pytest.raises(InvalidRequest, match=words):
        Seg(**{**good, **changes})


@pytest.mark.parametrize("size", [(0, 5), (5,), "ab", (5, 1 << 21)])
def test_bad_size(size: Any) -> None:
    with pytest.raises(InvalidRequest, match="size: not a size"):
        Segs(size)
