"""Sizes and skips, scaled SEGS, and what is refused before any work is done."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from preprocessing.images import encode
from preprocessing.prepare import Prepared, RequestTensors, prepare
from preprocessing.sizes import sampled_size
from request_plan.packing import bytes_at, mask_at, pixels_at
from segs_client.contract import ContractError, DetailRequest
from tests import icc
from tests.descriptors import bare_pipeline

PIXELS = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)

BASE = bare_pipeline()


def request(**fields: Any) -> bytes:
    return json.dumps({"pipeline": "base", "guide_size": 64, **fields}).encode()


def prepared(masks: bytes = b"", image: bytes | None = None, **fields: Any) -> Prepared:
    inputs = RequestTensors(
        request(**fields),
        encode(PIXELS, "png", 95) if image is None else np.frombuffer(image, dtype=np.uint8),
        np.frombuffer(masks, dtype=np.uint8),
    )
    return prepare(inputs, pipelines={"base": BASE})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"guide_size": 128}, (256, 320)),
        ({"guide_size": 128, "guide_size_for": False}, (128, 160)),
        ({"guide_size": 128, "max_size": 200}, (160, 200)),
        ({"guide_size": 64, "max_size": 64}, (80, 100)),  # forced: its own size
        ({"guide_size": 64, "max_size": 64, "force_inpaint": False}, "skipped_no_upscale"),
        ({"guide_size": 64}, (128, 160)),
        ({"guide_size": 104.5}, (209, 261)),
    ],
)
def test_sampled_size(options: dict[str, Any], expected: tuple[int, int] | str) -> None:
    asked = DetailRequest(pipeline="base", **options)
    assert sampled_size((20, 20, 70, 60), (0, 0, 100, 80), asked) == expected


def test_a_box_that_is_large_enough_is_skipped_unless_forced() -> None:
    box, region = (0, 0, 64, 70), (0, 0, 100, 100)
    lazy = DetailRequest(pipeline="base", guide_size=64, force_inpaint=False)
    assert sampled_size(box, region, lazy) == "skipped_large_enough"
    assert sampled_size(box, region, lazy.model_copy(update={"force_inpaint": True})) == (100, 100)


@pytest.mark.parametrize(
    ("box", "region", "options", "expected"),
    [
        # 512/31.6 · 79 is 1279.99… in float64 and 1280 in float32
        ((0.0, 0.0, 31.6, 31.6), (0, 0, 79, 79), {"max_size": 4096}, (1280, 1280)),
        # 64/19.6, then 96/137 of it: the scale is decided by fractions, not by 20 px
        ((18.3, 14.7, 37.9, 36.2), (8, 6, 50, 46), {"guide_size": 64, "max_size": 96}, (91, 96)),
        ((18.3, 14.7, 37.9, 36.2), (8, 6, 50, 46), {"guide_size": 64}, (130, 137)),
        ((-2.5, 10.2, 15, 30.9), (0, 0, 52, 61), {"guide_size": 64}, (223, 190)),
        (
            (0.0, 0.0, 31.6, 31.6), (0, 0, 79, 79), {"guide_size_for": False, "max_size": 4096},
            (512, 512),
        ),
    ],
)  # fmt: skip
def test_fractions_of_a_box_decide_the_scale(
    box: Any, region: Any, options: dict[str, Any], expected: tuple[int, int]
) -> None:
    assert sampled_size(box, region, DetailRequest(pipeline="base", **options)) == expected


@pytest.mark.parametrize(("side", "skipped"), [(63.5, False), (64, True), (64.25, True)])
def test_a_fraction_decides_whether_a_box_is_large_enough(side: float, skipped: bool) -> None:
    lazy = DetailRequest(pipeline="base", guide_size=64, force_inpaint=False)
    size = sampled_size((0.5, 0.5, 0.5 + side, 90), (0, 0, 100, 100), lazy)
    assert (size == "skipped_large_enough") is skipped


@pytest.mark.parametrize(
    ("box", "region"),
    [
        ([40.25, 30.5, 60.5, 50], [30, 20, 70, 59]),
        ([-2.5, -4, 15, 30.9], [0, 0, 35, 69]),
        ([-9, 0, 200, 8], [0, 0, 128, 16]),
    ],
)
def test_boxes_with_fractions_and_out_of_the_picture(box: list[float], region: list[int]) -> None:
    (seg,) = prepared(segs={"items": [{"bbox": box}]}, crop_factor=2.0).plan.segs
    assert list(seg.bbox) == box
    assert list(seg.crop_region) == region
    assert [type(edge) for edge in seg.bbox] == [type(edge) for edge in box]


def test_a_sliver_cannot_be_sampled() -> None:
    asked = DetailRequest(pipeline="base", guide_size=64, max_size=768)
    assert sampled_size((0, 0, 1000, 5), (0, 0, 1000, 5), asked) == "skipped_too_small"


def test_without_region_and_mask_the_box_is_the_mask() -> None:
    done = prepared(segs={"items": [{"bbox": [40, 30, 60, 50]}]}, crop_factor=2.0)
    (seg,) = done.plan.segs
    assert seg.crop_region == (30, 20, 70, 60)
    mask = mask_at(done.masks, seg.mask)
    assert mask.shape == (40, 40)
    assert mask[10:30, 10:30].min() == 1
    assert mask.sum() == 400
    assert seg.crop is not None
    assert pixels_at(done.crops, seg.crop).shape == (128, 128, 3)


def test_the_profile_goes_along() -> None:
    item = {"bbox": [40, 30, 60, 50], "crop_region": [40, 30, 60, 50]}
    own = np.zeros((20, 20, 3), np.float32)
    image = {"length": own.nbytes, "shape": [20, 20, 3]}
    data = encode(PIXELS, "png", 95, icc.rgb())
    segs = {"items": [{**item, "image": image}]}
    inputs = RequestTensors(request(segs=segs), data, seg_images=own.reshape(-1).view(np.uint8))
    done = prepare(inputs, pipelines={"base": BASE})
    assert bytes_at(done.given, done.plan.profile) == icc.rgb()
    inputs = replace(inputs, request=request(segs=segs, output={"color": "srgb"}))
    assert prepare(inputs, pipelines={"base": BASE}).plan.profile is None


def test_an_empty_mask_is_skipped() -> None:
    item = {
        "bbox": [0, 0, 8, 8],
        "crop_region": [0, 0, 8, 8],
        "mask": {"length": 64, "shape": [8, 8], "encoding": "uint8"},
    }
    (seg,) = prepared(bytes(64), segs={"items": [item]}).plan.segs
    assert seg.skip == "skipped_empty_mask"
    assert seg.crop is None


def test_no_segs_is_a_request_too() -> None:
    assert prepared().plan.segs == ()


SEG = {"bbox": [0, 0, 8, 8], "crop_region": [0, 0, 8, 8]}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"pipeline": "nobody"}, "pipeline"),
        ({"sampler_name": "nobody"}, "sampler_name"),
        ({"scheduler": "nobody"}, "scheduler"),
        ({"guide_size": 1}, "guide_size"),
        ({"nobody": 1}, "nobody"),
        ({"segs": {"items": [{"bbox": [0, 0, 300, 8]}]}}, "segs.items.0.bbox"),
        ({"segs": {"items": [{"bbox": [-9.5, 0, 9, 8]}]}}, "segs.items.0.bbox"),
        ({"segs": {"items": [{"bbox": [0, 200, 8, 208]}]}}, "segs.items.0.bbox"),
        (
            {"segs": {"items": [SEG, {**SEG, "crop_region": [0, 90, 8, 97]}]}},
            "segs.items.1.crop_region",
        ),
        (
            {"segs": {"items": [{**SEG, "mask": {"length": 256, "shape": [8, 8]}}]}},
            "segs.items.0.mask",
        ),
        (
            {"segs": {"items": [{**SEG, "mask": {"length": 64, "shape": [4, 4]}}]}},
            "segs.items.0.mask.shape",
        ),
        ({"segs": {"size": [960, 1280], "items": [SEG]}}, "segs.items.0.bbox"),
        (
            {"guide_size": 16384, "max_size": 16384, "segs": {"items": [SEG]}},
            "segs.items.0",
        ),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ContractError) as refusal:
        prepared(**fields)
    assert refusal.value.detail.field == field
    assert refusal.value.detail.message.startswith(field)


def test_an_unknown_pipeline_lists_the_known_ones() -> None:
    with pytest.raises(ContractError) as refusal:
        prepared(pipeline="nobody")
    assert refusal.value.detail.allowed == "base"
