"""Boxes with fractions: kept as given, and counted as the reference counts them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensors import Tensor

from segs_client import InvalidRequest, Seg, Segs, crop_region, scaled_to, tools
from segs_client.boxes import checked_box
from segs_client.contract import SegItem, SegReport, parse_request
from segs_client.drawing import outline
from segs_client.flags import box_flag
from segs_client.messages import build
from segs_client.scaling import scale_box

GOLDEN = Path(__file__).parents[2] / "tests" / "data" / "golden_detail"
SIZE = (120, 160)


def detected() -> list[tuple[list[float], float, list[int]]]:
    """Every box of the golden detectors, its crop factor and the reference's crop region."""
    found = []
    for name in ("detect-bbox", "detect-segm", "detect-simple"):
        cases = json.loads(bytes(np.load(GOLDEN / f"{name}.npz")["meta"]))["cases"]
        for case in cases:
            factor = case["options"]["crop_factor"]
            found += [(seg["bbox"], factor, seg["crop_region"]) for seg in case["out"]["segs"]]
    return found


def test_crop_regions_of_detected_boxes_are_the_references() -> None:
    boxes = detected()
    assert len(boxes) == 156
    for bbox, factor, region in boxes:
        assert list(crop_region(bbox, SIZE, factor)) == region
        assert list(crop_region(np.array(bbox, np.float32), SIZE, factor)) == region


@pytest.mark.parametrize(
    ("bbox", "factor", "in_float32", "in_float64"),
    [
        ((46.2, 0, 68.7, 20.5), 1.6, (39, 75), (39, 74)),
        ((55.1, 0, 83.2, 20.5), 3.0, (26, 110), (27, 111)),
    ],
)
def test_fractions_count_in_float32(
    bbox: Any, factor: float, in_float32: Any, in_float64: Any
) -> None:
    x1, x2 = (float(np.float32(edge)) for edge in bbox[::2])
    side = (x2 - x1) * factor
    start = int(x1 + (x2 - x1) / 2 - side / 2)
    assert (start, int(start + side)) == in_float64  # so these boxes differ in the two
    for form in (tuple, np.array, Tensor):
        left, _, right, _ = crop_region(form(bbox), (400, 400), factor)
        assert (left, right) == in_float32


def test_whole_numbers_count_in_pythons() -> None:
    bbox = (1, 0, 46, 20)  # 45 · 1.4 is 62.999… in float64, and 63 in float32
    assert crop_region(bbox, (200, 200), 1.4)[2] == 62
    assert crop_region(np.array(bbox), (200, 200), 1.4)[2] == 62
    assert crop_region([float(edge) for edge in bbox], (200, 200), 1.4)[2] == 63


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((1, 2, 30, 40), (1, 2, 30, 40)),
        ((1.0, 2, 30, 40.25), (1.0, 2, 30, 40.25)),
        (np.array([1, 2, 30, 40], np.int32), (1, 2, 30, 40)),
        (np.array([18.3, 2, 30, 40], np.float32), (float(np.float32(18.3)), 2.0, 30.0, 40.0)),
        ([np.float32(1.5), np.int64(2), 30, np.float64(40.5)], (1.5, 2, 30, 40.5)),
        (Tensor([-2.5, 10.25, 15.0, 30.5]), (-2.5, 10.25, 15.0, 30.5)),
    ],
)
def test_numbers_are_kept_as_given(given: Any, kept: Any) -> None:
    box = checked_box(given, "bbox")
    assert box == kept
    assert [type(edge) for edge in box] == [type(edge) for edge in kept]
    item = SegItem(bbox=box)
    assert json.loads(item.model_dump_json())["bbox"] == list(kept)
    text = json.dumps({"pipeline": "base", "segs": {"items": [{"bbox": kept}]}})
    again = parse_request(text).segs.items[0].bbox
    assert [type(edge) for edge in again] == [type(edge) for edge in kept]
    assert again == kept


def test_a_report_writes_whole_numbers_as_such() -> None:
    report = SegReport(index=0, status="enhanced", bbox=(1, 2, 3, 4.5), crop_region=(0, 0, 9, 9))
    assert '"bbox":[1,2,3,4.5]' in report.model_dump_json()
    assert SegReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0.1, 0.2, 0.8, 0.9), "smaller than a pixel"),
        ((5, 5, 5.5, 30), "smaller than a pixel"),
        ((5, 5, 5, 30), "has no area"),
        ((30, 40, 1, 2), "has no area"),
        ((0, 0, 1e7, 5), "not a box"),
        ((0, 0, float("nan"), 5), "not a box"),
        ((0, 0, float("inf"), 5), "not a box"),
        ((0, 0, 5), "not a box"),
        ((True, False, 5, 5), "not a box"),
        (("0", "0", "5", "5"), "not a box"),
        (np.zeros((2, 4)), "not a box"),
        (5, "not a box"),
    ],
    ids=str,
)
def test_what_is_no_box_is_refused_everywhere(box: Any, words: str) -> None:
    for call in (
        lambda: Segs.from_boxes([box], SIZE),
        lambda: build(np.zeros((8, 8, 3)), [box], pipeline="base"),
        lambda: Seg(np.ones((8, 8)), box, (0, 0, 8, 8)),
    ):
        with pytest.raises(InvalidRequest, match=rf"{words} .*x2 > x1 and y2 > y1"):
            call()


@pytest.mark.parametrize("region", [(0, 0, 8.5, 8), (-1, 0, 8, 8), (0, 0, 8, float("nan"))])
def test_crop_regions_stay_whole(region: Any) -> None:
    with pytest.raises(InvalidRequest, match="crop_region: not a region of pixels"):
        Seg(np.ones((8, 8)), (0, 0, 8, 8), region)


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((2, 3, 6, 8), (2, 3, 6, 8)),  # half-open
        ((2.0, 3.0, 6.0, 8.0), (2, 3, 6, 8)),
        ((2.1, 3.9, 5.1, 7.5), (2, 3, 6, 8)),  # the pixels that it touches
        ((-2.5, 3, 6.5, 8), (0, 3, 7, 8)),
        ((10.5, 8.5, 20, 20), (10, 8, 12, 10)),
    ],
)
@pytest.mark.parametrize("form", [list, np.array])
def test_the_mask_of_a_callers_box(box: Any, pixels: Any, form: Any) -> None:
    segs = Segs.from_boxes(form([box]), (10, 12), crop_factor=4)
    expected = np.zeros((10, 12), np.float32)
    x1, y1, x2, y2 = pixels
    expected[y1:y2, x1:x2] = 1
    np.testing.assert_array_equal(tools.combined_mask(segs), expected)
    assert segs[0].bbox == box
    np.testing.assert_array_equal(tools.combined_mask(tools.box_filled(segs)), expected)


@pytest.mark.parametrize("box", [(12, 0, 20, 5), (0, 10.5, 5, 20), (-9, 0, 0, 5), (0, -9, 5, -1.5)])
def test_a_box_outside_the_picture_is_refused(box: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"boxes\.0: outside the picture .*12 wide and 10 hi"):
        Segs.from_boxes([box], (10, 12))


def test_boxes_of_every_form_are_sent_alike() -> None:
    rows = [[1.5, 2, 30, 40], [10, 20, 30, 40]]
    picture = np.zeros((50, 60, 3))
    for form in (rows, np.array(rows), np.array(rows, np.float32), [np.array(row) for row in rows]):
        items = build(picture, form, pipeline="base").request.segs.items
        assert [item.bbox for item in items] == [tuple(row) for row in rows]
    items = build(picture, [Tensor(row) for row in rows], pipeline="base").request.segs.items
    assert [item.bbox for item in items] == [tuple(row) for row in rows]


def test_the_command_lines_box() -> None:
    assert box_flag("1,2.5,30,40.0") == (1, 2.5, 30, 40)
    assert [type(edge) for edge in box_flag("-1,2.5,30,40.0")] == [int, float, int, float]


def test_scaled_boxes_are_truncated() -> None:
    segs = Segs.from_boxes([(10.6, 12.2, 51.7, 63.9)], (100, 200), crop_factor=1)
    assert scaled_to(segs, (150, 500))[0].bbox == (26, 18, 129, 95)
    # 5.1 · 10 is 50.999… in float64 and 51 in float32
    assert scale_box((1.5, 2.0, 5.1, 9.0), (10, 10), (100, 100)) == (15, 20, 51, 90)
    assert scale_box((1, 2, 5, 9), (10, 10), (15, 15)) == (1, 3, 7, 13)


def test_fractions_are_stored_merged_and_drawn() -> None:
    segs = Segs.from_boxes([(10.25, 12, 30.5, 40), (20, 5.75, 50, 60.5)], (80, 90))
    file = io.BytesIO()
    tools.save(segs, file)
    assert [seg.bbox for seg in tools.load(io.BytesIO(file.getvalue()))] == [
        (10.25, 12, 30.5, 40),
        (20, 5.75, 50, 60.5),
    ]
    (merged,) = tools.merged(segs)
    assert merged.bbox == (10.25, 5.75, 50, 60.5)
    assert len(tools.merged(segs, "overlapping_boxes")) == 1
    picture = Image.new("RGB", (90, 80))
    outside = Seg(np.ones((80, 90)), (-9.5, -3, 99.5, 20), (0, 0, 90, 80))
    outline(picture, (*segs, outside))
    assert picture.getbbox() is not None
