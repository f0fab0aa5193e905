"""Options per SEG and further inputs, seen through the server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segs_client import Client, Segs
from segs_client.errors import InvalidRequest
from segs_client.messages import DetailResult
from serving.server import EmbeddedServer

pytestmark = pytest.mark.server

PICTURE = np.random.default_rng(5).integers(0, 256, (192, 256, 3), dtype=np.uint8)
BOXES = [(40, 50, 80, 100), (150, 60, 200, 100)]
SEGS = Segs.from_boxes(BOXES, (192, 256), crop_factor=2.0)
COMMON: dict[str, Any] = {
    "guide_size": 96,
    "max_size": 160,
    "steps": 3,
    "prompt": "a face",
    "output": {"image": "raw", "seg_images": "float32"},
}


@pytest.fixture(scope="module")
def client(full_server: EmbeddedServer) -> Iterator[Client]:
    with Client(full_server.grpc_url, pipeline="sd15", timeout_s=120) as connected:
        yield connected


def with_options(*options: dict[str, Any]) -> Segs:
    items = tuple(replace(seg, options=own) for seg, own in zip(SEGS, options, strict=True))
    return Segs(SEGS.size, items)


def crops(result: DetailResult) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(seg.image) for seg in result.segs]


def close(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """The same but for the last bits that another batch may change."""
    difference = np.abs(one - other) * 255
    return bool(difference.max() <= 2 and difference.mean() <= 0.05)


@pytest.mark.parametrize(
    "own",
    [
        {"prompt": "blue eyes"},
        {"negative": "a hat"},
        {"seed": 99},
        {"steps": 5},
        {"cfg": 2.0},
        {"denoise": 0.9},
        {"controlnets": [{"name": "controlnet", "strength": 0.7}]},
    ],
    ids=lambda own: next(iter(own)),
)
def test_a_segs_own_option_is_as_if_all_had_it(client: Client, own: dict[str, Any]) -> None:
    plain = crops(client.detail(PICTURE, SEGS, **COMMON))
    everywhere = crops(client.detail(PICTURE, SEGS, **{**COMMON, **own}))
    mixed = crops(client.detail(PICTURE, with_options({}, own), **COMMON))
    assert close(mixed[0], plain[0])
    assert close(mixed[1], everywhere[1])
    assert not close(mixed[1], plain[1])


def test_a_seg_may_be_skipped(client: Client) -> None:
    result = client.detail(PICTURE, with_options({"skip": True}, {}), **COMMON)
    assert [seg.status for seg in result.report.segs] == ["skipped_by_request", "enhanced"]
    x1, y1, x2, y2 = SEGS[0].crop_region
    assert np.array_equal(np.asarray(result.image)[y1:y2, x1:x2], PICTURE[y1:y2, x1:x2])


def test_prompts_dealt_out_are_reported(client: Client) -> None:
    dealt = {"text": "{red|red} [SEP] __hat__", "order": "right_to_left"}
    options = {**COMMON, "seg_prompts": dealt, "wildcards": {"hat": ["a cap"]}}
    result = client.detail(PICTURE, SEGS, **options)
    assert [seg.prompt for seg in result.report.segs] == ["a face, a cap", "a face, red"]


def test_control_images_come_back(client: Client) -> None:
    chain = [
        {"name": "controlnet", "image": PICTURE, "preprocessor": "canny"},
        {"name": "controlnet", "strength": 0.5},
    ]
    output = {"image": "none", "control_images": True}
    result = client.detail(PICTURE, SEGS, **{**COMMON, "controlnets": chain, "output": output})
    for seg, (edges, crop) in zip(result.report.segs, result.control_images, strict=True):
        x1, y1, x2, y2 = seg.crop_region
        assert edges.size == (x2 - x1, y2 - y1)
        assert set(np.unique(np.asarray(edges))) <= {0, 255}
        assert seg.sampled_size == (crop.height, crop.width)


def test_a_refiner_takes_over(client: Client) -> None:
    plain = crops(client.detail(PICTURE, SEGS, **COMMON))
    refined = crops(client.detail(PICTURE, SEGS, **COMMON, refiner={"pipeline": "sd15-refiner"}))
    assert not close(plain[0], refined[0])


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"controlnets": [{"name": "depth"}]}, "controlnets.0.name"),
        ({"refiner": {"pipeline": "nobody"}}, "refiner.pipeline"),
        ({"refiner": {"pipeline": "sdxl"}}, "refiner.pipeline"),
        ({"prompt": "embedding:nobody"}, "prompt"),
        ({"prompt": "__nobody__"}, "wildcards"),
        ({"prompts": [{"text": "x", "mask": np.ones((5, 5))}]}, "prompts.0.mask.shape"),
        ({"scheduler_func": {"name": "sigmas", "sigmas": [1, 2]}}, "scheduler_func.sigmas"),
    ],
)
def test_what_is_wrong_is_named(client: Client, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        client.detail(PICTURE, SEGS, **{**COMMON, **options})
    assert refusal.value.field == field
    assert refusal.value.allowed
