"""What a request will take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from preprocessing.prepare import RequestTensors, check
from tests.preprocessing.test_prepare import BASE, request
from triton_models.request_cost import LARGE_BYTES, PICTURE_BYTES_PER_S, RequestCost


def cost_of(side_px: int = 128, **fields: object) -> RequestCost:
    """The cost of a request with a raw picture."""
    image = np.zeros(side_px * side_px * 3, np.uint8)
    raw = {"encoding": "raw", "shape": [side_px, side_px, 3]}
    inputs = RequestTensors(request(image=raw, **fields), image)
    return RequestCost.of(check(inputs, pipelines={"base": BASE}))


SEGS: dict[str, Any] = {"items": [{"bbox": [0, 0, 64, 64], "crop_region": [0, 0, 64, 64]}]}
FORCED: dict[str, Any] = {"segs": SEGS, "guide_size": 64, "max_size": 64, "noise_mask_feather": 0}


def test_work_grows_with_the_steps_and_has_a_share_for_the_vae() -> None:
    one, two = cost_of(steps=1, **FORCED), cost_of(steps=2, **FORCED)
    ten = cost_of(steps=10, **FORCED)
    step = two.work - one.work
    assert step > 0
    assert ten.work == pytest.approx(one.work + 9 * step)
    assert one.work > step  # what encoding and decoding take


def test_a_request_without_segs_has_no_work_but_its_picture() -> None:
    cost = cost_of()
    assert cost.work == 0.0
    assert cost.picture_bytes == 128 * 128 * 3
    assert cost.picture_s == cost.picture_bytes / PICTURE_BYTES_PER_S


def test_control_images_and_masks_count_as_pictures() -> None:
    """They are decoded, too: a tiny picture may come with a large control image."""
    control = {"encoding": "uint8", "length": 256 * 256 * 3, "shape": [256, 256, 3]}
    mask = {"encoding": "uint8", "length": 64 * 64, "shape": [64, 64]}
    seg = {"bbox": [0, 0, 64, 64], "crop_region": [0, 0, 64, 64], "mask": mask}
    chain = [{"name": "tile", "image": control}]
    fields = {"segs": {"items": [seg]}, "controlnets": chain}
    base = BASE.model_copy(update={"controlnets": {"tile": None}})
    image = np.zeros(128 * 128 * 3, np.uint8)
    inputs = RequestTensors(
        request(image={"encoding": "raw", "shape": [128, 128, 3]}, **fields),
        image,
        masks=np.zeros(64 * 64, np.uint8),
        control_images=np.zeros(256 * 256 * 3, np.uint8),
    )
    cost = RequestCost.of(check(inputs, pipelines={"base": base}))
    assert cost.picture_bytes == 128 * 128 * 3 + 256 * 256 * 3 + 64 * 64


@pytest.mark.parametrize(("priority", "weight"), [("low", 0.25), ("normal", 1.0), ("high", 4.0)])
def test_the_priority_is_a_weight(priority: str, weight: float) -> None:
    assert cost_of(priority=priority).weight == weight


def test_pictures_beyond_16_mib_are_large() -> None:
    assert not RequestCost(1.0, LARGE_BYTES).is_large
    assert RequestCost(1.0, LARGE_BYTES + 1).is_large
