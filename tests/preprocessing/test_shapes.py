"""Throughput mode: regions that grow to common sizes, and what stays as it is."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing.prepare import Prepared, RequestTensors, prepare
from preprocessing.shapes import MAX_GROWTH, SIDES_PX, TOLERANCE, Shape, common_shape
from preprocessing.sizes import sampled_size
from request_plan.limits import DEFAULT
from request_plan.packing import mask_at
from request_plan.plan import PlannedSeg
from segs_client.boxes import Box, Size, crop_region
from segs_client.contract import DetailRequest
from tests.descriptors import bare_pipeline

RANDOM = np.random.default_rng(3)
MOST = DEFAULT.max_seg_pixels
PIXELS = RANDOM.integers(0, 256, (240, 320, 3), dtype=np.uint8)
BASE = bare_pipeline()


def drawn(seed: int) -> tuple[Box, Size, Size, float]:
    """A crop region, its exact sampled size, its picture's size, and max_size."""
    random = np.random.default_rng(seed)
    while True:
        size = int(random.integers(64, 2500)), int(random.integers(64, 2500))
        height, width = (max(1, int(side * random.random() ** 2)) for side in size)
        top, left = int(random.integers(size[0] - height)), int(random.integers(size[1] - width))
        bbox = left, top, left + width, top + height
        region = crop_region(bbox, size, float(random.uniform(1, 3)))
        options = DetailRequest(
            pipeline="base",
            guide_size=float(random.uniform(64, 1100)),
            guide_size_for=bool(random.random() < 0.7),
            max_size=float(random.uniform(64, 1600)),
        )
        exact = sampled_size(bbox, region, options)
        if not isinstance(exact, str):
            return region, exact, size, options.max_size


@pytest.mark.parametrize("seed", range(300))
def test_what_always_holds(seed: int) -> None:
    region, exact, (height, width), max_size = drawn(seed)
    shape = common_shape(region, exact, (0, 0, width, height), max_size, MOST)
    if shape == Shape(region, exact):
        return
    x1, y1, x2, y2 = shape.crop_region
    assert 0 <= x1 <= region[0] < region[2] <= x2 <= width
    assert 0 <= y1 <= region[1] < region[3] <= y2 <= height
    longest = int(max_size) // 8 * 8
    assert all(side in SIDES_PX or side == longest for side in shape.size)
    assert max(shape.size) <= max_size or max(exact) > max_size
    pixels = shape.size[0] * shape.size[1]
    assert pixels <= min(MAX_GROWTH * exact[0] * exact[1], MOST)
    scales = shape.size[0] / (y2 - y1), shape.size[1] / (x2 - x1)
    upscale = max(exact[0] / (region[3] - region[1]), exact[1] / (region[2] - region[0]))
    assert min(scales) >= max(1, upscale * (1 - TOLERANCE))
    assert max(scales) <= min(scales) * (1 + TOLERANCE)


@pytest.mark.parametrize("seed", range(100))
def test_where_there_is_room_a_size_is_found_from_256_px_on(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = random.integers(64, 400, 2).tolist()
    upscale = random.uniform(max(1, 256 / min(height, width)), 4)
    exact = int(height * upscale), int(width * upscale)
    if min(exact) < 256 or upscale <= 1:
        return
    region = (1000, 1000, 1000 + width, 1000 + height)
    shape = common_shape(region, exact, (0, 0, 3000, 3000), 2048, MOST)
    assert set(shape.size) <= set(SIDES_PX)
    x1, y1, x2, y2 = shape.crop_region
    assert x2 - x1 <= 1.3 * width
    assert y2 - y1 <= 1.3 * height


def test_sides_are_coarse_multiples_of_64() -> None:
    assert SIDES_PX[:14] == (64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536)
    from_256 = SIDES_PX[3:]
    assert all(b <= 1.25 * a for a, b in itertools.pairwise(from_256))


@pytest.mark.parametrize(
    ("region", "within", "grown", "size"),
    [
        ((100, 100, 176, 200), (0, 0, 400, 400), (98, 100, 178, 200), (640, 512)),  # about it
        ((0, 100, 76, 200), (0, 0, 400, 400), (0, 100, 80, 200), (640, 512)),  # shifted
        ((324, 100, 400, 200), (0, 0, 400, 400), (320, 100, 400, 200), (640, 512)),
        ((0, 0, 60, 200), (0, 0, 60, 400), (0, 0, 60, 200), (1280, 384)),  # fits as it is
        ((0, 0, 70, 100), (0, 0, 70, 100), (0, 0, 70, 100), (640, 448)),
        ((0, 0, 76, 100), (0, 0, 76, 100), (0, 0, 76, 100), (640, 486)),  # no room: exact
        ((0, 0, 76, 100), (0, 0, 76, 125), (0, 0, 76, 114), (768, 512)),  # scaled up more
    ],
)
def test_known_regions(region: Box, within: Box, grown: Box, size: Size) -> None:
    exact = int((region[3] - region[1]) * 6.4), int((region[2] - region[0]) * 6.4)
    shape = common_shape(region, exact, within, 2048, MOST)
    assert (shape.crop_region, shape.size) == (grown, size)


def test_max_size_that_is_no_multiple_of_64_is_a_side_of_its_own() -> None:
    shape = common_shape((0, 0, 100, 90), (630, 700), (0, 0, 500, 500), 701, MOST)
    assert shape.size == (640, 696)


def test_what_is_sampled_at_its_own_size_beyond_max_size_is_not_made_smaller() -> None:
    region = (0, 0, 900, 800)
    shape = common_shape(region, (800, 900), (0, 0, 2000, 2000), 768, MOST)
    assert shape == Shape((0, 0, 1024, 896), (896, 1024))


def test_too_large_is_left_to_be_refused() -> None:
    exact = (2048, 2049)
    shape = common_shape((0, 0, 2049, 2048), exact, (0, 0, 4000, 4000), 768, MOST)
    assert shape.size == exact


def prepared(
    shapes: str | None, items: list[dict[str, Any]], masks: bytes = b"", crops: bytes = b"",
    **fields: Any,
) -> Prepared:  # fmt: skip
    mode = {} if shapes is None else {"shapes": shapes}
    request = {
        "pipeline": "base",
        "image": {"encoding": "raw", "shape": PIXELS.shape},
        "segs": {"items": items},
        "guide_size": 192,
        "max_size": 256,
        "crop_factor": 2.0,
        **mode,
        **fields,
    }
    inputs = RequestTensors(
        json.dumps(request).encode(),
        PIXELS.reshape(-1),
        np.frombuffer(masks, np.uint8),
        np.frombuffer(crops, np.uint8),
    )
    return prepare(inputs, pipelines={"base": BASE})


BOXES = [{"bbox": [40, 50, 40 + width, 110]} for width in range(50, 70)]


def test_the_exact_mode_is_the_default() -> None:
    default, exact = prepared(None, BOXES), prepared("exact", BOXES)
    assert default.plan.segs == exact.plan.segs
    assert np.array_equal(default.crops, exact.crops)
    assert np.array_equal(default.masks, exact.masks)


def test_many_sizes_become_one() -> None:
    sizes = {
        mode: {
            (seg.crop.height, seg.crop.width) for seg in prepared(mode, BOXES).plan.segs if seg.crop
        }
        for mode in ("exact", "throughput")
    }
    assert len(sizes["exact"]) > 10
    assert sizes["throughput"] == {(256, 256)}


def test_box_and_mask_stay_where_they_are_in_the_picture() -> None:
    before, after = prepared("exact", BOXES), prepared("throughput", BOXES)
    for exact, common in zip(before.plan.segs, after.plan.segs, strict=True):
        assert common.bbox == exact.bbox
        assert np.array_equal(picture_mask(exact, before), picture_mask(common, after))


def picture_mask(seg: PlannedSeg, of: Prepared) -> NDArray[np.float32]:
    x1, y1, x2, y2 = seg.crop_region
    whole = np.zeros(PIXELS.shape[:2], np.float32)
    whole[y1:y2, x1:x2] = mask_at(of.masks, seg.mask)
    return whole


@pytest.mark.parametrize(
    "fields",
    [
        {"force_inpaint": False, "guide_size": 64},
        {"force_inpaint": False, "guide_size": 128, "max_size": 128},
        {"guide_size": 64, "max_size": 64},
        {"guide_size_for": False},
    ],
)
def test_what_is_skipped_is_skipped_in_both_modes(fields: dict[str, Any]) -> None:
    items: list[dict[str, Any]] = [*BOXES, {"bbox": [0, 0, 200, 5]}, {"bbox": [0, 0, 9, 9]}]
    items += [{"bbox": [0, 0, 9, 9], "skip": True}, {"bbox": [10, 10, 110, 90]}]
    exact, common = (prepared(mode, items, **fields).plan.segs for mode in ("exact", "throughput"))
    assert [seg.skip for seg in common] == [seg.skip for seg in exact]
    for one, other in zip(exact, common, strict=True):
        if one.skip is not None:
            assert other == one.model_copy(update={"mask": other.mask})


def test_a_given_crop_keeps_its_region() -> None:
    def item(width: int) -> dict[str, Any]:
        region = [10, 10, 10 + width, 110]
        crop = {"length": width * 300, "shape": [100, width, 3], "encoding": "uint8"}
        return {"bbox": [20, 20, 70, 100], "crop_region": region, "image": crop}

    crops = bytes(range(250)) * 200
    odd, even = prepared("throughput", [item(83), item(74)], crops=crops).plan.segs
    assert odd.crop_region == (10, 10, 93, 110)
    assert odd.crop is not None
    assert (odd.crop.height, odd.crop.width) == (255, 212)
    assert even.crop_region == (10, 10, 84, 110)
    assert even.crop is not None
    assert (even.crop.height, even.crop.width) == (256, 192)  # it has the table's form


def test_control_images_follow_the_grown_region() -> None:
    base = BASE.model_copy(update={"controlnets": {"edges": None}})
    picture = {"length": PIXELS.size, "shape": PIXELS.shape, "encoding": "uint8"}
    request = {
        "pipeline": "base",
        "image": {"encoding": "raw", "shape": PIXELS.shape},
        "segs": {"items": BOXES[:1]},
        "crop_factor": 2.0,
        "guide_size": 192,
        "max_size": 256,
        "shapes": "throughput",
        "controlnets": [{"name": "edges", "image": picture}],
    }
    inputs = RequestTensors(
        json.dumps(request).encode(), PIXELS.reshape(-1), control_images=PIXELS.reshape(-1)
    )
    (seg,) = prepare(inputs, pipelines={"base": base}).plan.segs
    x1, y1, x2, y2 = seg.crop_region
    hint = seg.controls[0].hint
    assert (hint.height, hint.width) == (y2 - y1, x2 - x1) == (120, 120)
