"""Detections, filters and masks against what the reference's nodes made of the same inputs.

Left out are sub-cases of nodes without a counterpart here (SAM, two masks without SEGS, a box that
is scaled), and two defects of the reference: the margin of a segmenter's masks whose aspect ratio
is not the picture's, and the transposed mask of no detections.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segs_client import Seg, Segs, tools

FOLDER = Path(__file__).parents[2] / "tests" / "data" / "golden_detail"


class Golden:
    """One file of sub-cases."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz") as data:
            self.arrays = {each: data[each] for each in data.files}
        self.meta = json.loads(self.arrays["meta"].tobytes())
        self.cases: list[dict[str, Any]] = self.meta["cases"]

    def of_kind(self, *kinds: str) -> list[int]:
        return [index for index, case in enumerate(self.cases) if case["kind"] in kinds]

    def check(self, index: int, segs: Segs, tolerance: float = 0) -> None:
        """The SEGS are those of the sub-case: boxes, regions, labels, scores and masks."""
        expected = self.cases[index]["out"]
        assert list(segs.size) == expected["size"]
        assert [
            (list(seg.bbox), list(seg.crop_region), seg.label, seg.confidence) for seg in segs
        ] == [
            (seg["bbox"], seg["crop_region"], seg["label"], seg["confidence"])
            for seg in expected["segs"]
        ]
        for number, seg in enumerate(segs):
            mask = self.arrays[f"c{index}_mask_{number}"].astype(np.float32)
            assert seg.mask.shape == mask.shape
            np.testing.assert_allclose(seg.mask, mask, rtol=0, atol=tolerance)


BBOX, SEGM, ONNX, SIMPLE = (Golden(f"detect-{name}") for name in ("bbox", "segm", "onnx", "simple"))
FILTER, MASK = Golden("segs-filter"), Golden("segs-mask")


def result(golden: Golden, found: dict[str, Any], size: Any, masks: Any = None) -> Any:
    """The detections of a sub-case as an Ultralytics result."""
    return SimpleNamespace(
        orig_shape=size,
        names={int(number): name for number, name in golden.meta["names"].items()},
        boxes=SimpleNamespace(
            xyxy=np.array(found["boxes"], np.float32),
            conf=np.array(found["scores"], np.float32),
            cls=np.array(found["classes"], np.float32),
        ),
        masks=None if masks is None else SimpleNamespace(data=masks),
    )


@pytest.mark.parametrize("index", range(len(BBOX.cases)))
def test_a_detector_of_boxes(index: int) -> None:
    case = BBOX.cases[index]
    found = result(BBOX, case, case["size"])
    BBOX.check(index, tools.from_ultralytics([found], **case["options"]))
    detections = SimpleNamespace(
        xyxy=np.array(case["boxes"], np.float32),
        confidence=np.array(case["scores"], np.float32),
        class_id=np.array(case["classes"]),
    )
    names = [BBOX.meta["names"][str(number)] for number in range(len(BBOX.meta["names"]))]
    BBOX.check(
        index,
        tools.from_supervision(detections, case["size"], names=names, **case["options"]),
    )


@pytest.mark.parametrize("index", range(len(BBOX.cases)))
def test_the_combined_mask_of_detected_boxes(index: int) -> None:
    case = BBOX.cases[index]
    options = {name: case["options"][name] for name in ("threshold", "dilation")}
    found = result(BBOX, case, case["size"])
    mask = tools.combined_mask(tools.from_ultralytics(found, crop_factor=100, **options))
    expected = BBOX.arrays[f"c{index}_combined"][0]
    if not expected.any():  # the reference's is transposed
        expected = expected.reshape(mask.shape)
    np.testing.assert_array_equal(mask, expected)


def same_ratio(index: int) -> bool:
    case = SEGM.cases[index]
    (height, width), (rows, columns) = case["size"], case["mask_size"]
    return bool(height * columns == width * rows)


@pytest.mark.parametrize("index", [at for at in range(len(SEGM.cases)) if same_ratio(at)])
def test_a_detector_of_masks(index: int) -> None:
    case = SEGM.cases[index]
    found = result(SEGM, case, case["size"], SEGM.arrays[f"c{index}_raw_masks"])
    SEGM.check(index, tools.from_ultralytics(found, **case["options"]))


@pytest.mark.parametrize("index", range(len(ONNX.cases)))
def test_whole_boxes_dilated_in_the_crop(index: int) -> None:
    case = ONNX.cases[index]
    options = case["options"]
    segs = Segs.from_boxes(
        case["boxes"],
        case["size"],
        crop_factor=options["crop_factor"],
        labels=[str(number) for number in case["classes"]],
        confidences=case["scores"],
    )
    sure = tools.in_range(segs, "confidence", high=options["threshold"], negate=True)
    ONNX.check(index, tools.dilated_in_crop(sure, options["dilation"]))


@pytest.mark.parametrize(
    "index", [at for at, case in enumerate(SIMPLE.cases) if case["sub"] in (None, "segm")]
)
def test_boxes_cut_by_the_masks_of_a_segmenter(index: int) -> None:
    case = SIMPLE.cases[index]
    options = case["options"]
    shared = {name: options[name] for name in ("crop_factor", "drop_size")}
    segs = tools.from_ultralytics(
        result(SIMPLE, case, case["size"]),
        threshold=options["bbox_threshold"],
        dilation=options["bbox_dilation"],
        **shared,
    )
    if case["sub"] == "segm":
        masks = SIMPLE.arrays[f"c{index}_segm_masks"]
        others = tools.from_ultralytics(
            result(SIMPLE, case["segm"], case["size"], masks),
            threshold=options["sub_threshold"],
            dilation=options["sub_dilation"],
            **shared,
        )
        segs = tools.intersected(segs, tools.combined_mask(others))
    SIMPLE.check(index, tools.dilated_in_crop(segs, options["post_dilation"]))


def whole_segs() -> Segs:
    """The SEGS of the filters, with masks that are 1 everywhere."""
    items = []
    for seg in FILTER.meta["segs"]:
        x1, y1, x2, y2 = seg["crop_region"]
        items.append(Seg(mask=np.ones((y2 - y1, x2 - x1)), **seg))
    return Segs(FILTER.meta["size"], tuple(items))


SEGS = whole_segs()


def which(segs: Segs) -> list[int]:
    return [SEGS.items.index(seg) for seg in segs]


@pytest.mark.parametrize("index", FILTER.of_kind("ordered"))
def test_ordered(index: int) -> None:
    case = FILTER.cases[index]
    in_order = tools.ordered(SEGS, case["target"], descending=case["descending"])
    kept = tools.ordered(
        SEGS,
        case["target"],
        descending=case["descending"],
        start=case["start"],
        count=case["count"],
    )
    assert (which(kept), which(tools.remaining(in_order, kept))) == (case["kept"], case["rest"])


@pytest.mark.parametrize("index", FILTER.of_kind("range"))
def test_in_range(index: int) -> None:
    case = FILTER.cases[index]
    kept = tools.in_range(
        SEGS, case["target"], case["low"], case["high"], negate=not case["inside"]
    )
    assert (which(kept), which(tools.remaining(SEGS, kept))) == (case["kept"], case["rest"])


@pytest.mark.parametrize("index", FILTER.of_kind("label"))
def test_with_labels(index: int) -> None:
    case = FILTER.cases[index]
    kept = tools.with_labels(SEGS, case["labels"])
    assert (which(kept), which(tools.remaining(SEGS, kept))) == (case["kept"], case["rest"])


@pytest.mark.parametrize("index", FILTER.of_kind("assign"))
def test_labels_assigned(index: int) -> None:
    case = FILTER.cases[index]
    labels = [seg.label for seg in tools.relabelled(SEGS, case["labels"].split(","))]
    assert labels == case["out"]


def test_merged_and_appended() -> None:
    (merged,) = (FILTER.cases[index] for index in FILTER.of_kind("merge"))
    (expected,) = merged["segs"]
    (seg,) = tools.merged_into_one(Segs(SEGS.size, SEGS.items[:2]))
    assert list(seg.bbox) == expected["bbox"]
    assert list(seg.crop_region) == expected["crop_region"]
    assert (seg.label, seg.confidence) == (expected["label"], expected["confidence"])
    np.testing.assert_array_equal(seg.mask, FILTER.arrays["merge_mask_0"])
    (appended,) = (FILTER.cases[index] for index in FILTER.of_kind("concat"))
    both = Segs(SEGS.size, SEGS.items[:2]).plus(Segs(SEGS.size, SEGS.items[4:6]))
    assert which(both) == appended["out"]


def soft_segs(indices: list[int]) -> Segs:
    """Some of the SEGS of the nodes of masks; their masks are soft or hard."""
    items = [
        Seg(mask=MASK.arrays[f"in_mask_{index}"], **MASK.meta["segs"][index]) for index in indices
    ]
    return Segs(MASK.meta["size"], tuple(items))


@pytest.mark.parametrize("index", MASK.of_kind("dilate"))
def test_dilated_in_crop(index: int) -> None:
    case = MASK.cases[index]
    MASK.check(index, tools.dilated_in_crop(soft_segs(case["inputs"]), case["dilation"]))


@pytest.mark.parametrize("index", MASK.of_kind("dilate_mask"))
def test_a_whole_pictures_mask_dilated(index: int) -> None:
    case = MASK.cases[index]
    height, width = MASK.meta["size"]
    box = (0, 0, width, height)
    whole = Segs((height, width), (Seg(MASK.arrays[case["mask"]], box, box),))
    (seg,) = tools.dilated_in_crop(whole, case["dilation"])
    np.testing.assert_array_equal(seg.mask, MASK.arrays[f"c{index}_out"][0])


@pytest.mark.parametrize("index", MASK.of_kind("blur"))
def test_blurred(index: int) -> None:
    case = MASK.cases[index]
    blurred = tools.blurred(soft_segs(case["inputs"]), case["kernel"], case["sigma"])
    MASK.check(index, blurred, tolerance=2e-6)


@pytest.mark.parametrize("index", MASK.of_kind("and_mask", "and_each", "and_segs", "subtract_segs"))
def test_masks_cut_by_masks(index: int) -> None:
    case = MASK.cases[index]
    segs = soft_segs(case["inputs"])
    if case["kind"] == "and_mask":
        cut = tools.intersected(segs, MASK.arrays[case["mask"]])
    elif case["kind"] == "and_each":
        cut = tools.intersected(segs, [MASK.arrays[name] for name in case["masks"]])
    elif case["kind"] == "and_segs":
        cut = tools.intersected(segs, tools.combined_mask(soft_segs(case["other"])))
    else:
        cut = tools.subtracted(segs, tools.combined_mask(soft_segs(case["other"])))
    MASK.check(index, cut)


@pytest.mark.parametrize("index", MASK.of_kind("combined"))
def test_combined_mask(index: int) -> None:
    segs = soft_segs(MASK.cases[index]["inputs"])
    expected = MASK.arrays[f"c{index}_out"][0]
    np.testing.assert_array_equal(tools.combined_mask(segs), expected, strict=True)


def test_every_kind_of_sub_case_is_tested() -> None:
    without = {"to_binary", "mask_and", "mask_subtract", "mask_add", "bbox_scale"}
    tested = {"dilate", "blur", "and_mask", "and_segs", "and_each", "subtract_segs", "combined"}
    assert {case["kind"] for case in MASK.cases} == tested | without | {"dilate_mask"}
    kinds = {"ordered", "range", "label", "assign", "merge", "concat"}
    assert {case["kind"] for case in FILTER.cases} == kinds
