"""Throughput mode through the server: SEGS of many sizes are sampled at one or two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segs_client import Client, Segs, paste, tools
from segs_client.boxes import window
from segs_client.messages import DetailResult
from serving.server import EmbeddedServer

pytestmark = pytest.mark.server

PICTURE = np.random.default_rng(6).integers(0, 256, (288, 384, 3), dtype=np.uint8)
SIDES = ((32, 40), (34, 40), (36, 40), (40, 37), (44, 48), (46, 50), (40, 50), (39, 41))
BOXES = [
    (
        20 + 90 * (n % 4),
        30 + 140 * (n // 4),
        20 + 90 * (n % 4) + width,
        30 + 140 * (n // 4) + height,
    )
    for n, (width, height) in enumerate(SIDES)
]
SEGS = Segs.from_boxes(BOXES, (288, 384), crop_factor=2.0)
FEATHER = 5
OPTIONS: dict[str, Any] = {
    "prompt": "a face",
    "guide_size": 128,
    "max_size": 192,
    "steps": 2,
    "paste": {"feather": FEATHER},
    "output": {"image": "raw", "seg_images": "float32"},
}


def detail(server: EmbeddedServer, **options: Any) -> DetailResult:
    with Client(server.grpc_url, pipeline="sd15", timeout_s=120) as client:
        return client.detail(PICTURE, SEGS, **OPTIONS, **options)


def test_segs_of_many_sizes_share_one_or_two(server: EmbeddedServer) -> None:
    exact, common = detail(server), detail(server, shapes="throughput")
    assert len({seg.sampled_size for seg in exact.report.segs}) >= 6
    assert len({seg.sampled_size for seg in common.report.segs}) <= 2

    for sent, before, after in zip(SEGS, exact.report.segs, common.report.segs, strict=True):
        assert after.status == before.status == "enhanced"
        assert after.bbox == before.bbox == sent.bbox
        assert before.crop_region == sent.crop_region
        x1, y1, x2, y2 = sent.crop_region
        assert after.crop_region[0] <= x1 < x2 <= after.crop_region[2]
        assert after.crop_region[1] <= y1 < y2 <= after.crop_region[3]


def test_the_picture_changes_under_the_masks_alone(server: EmbeddedServer) -> None:
    common = detail(server, shapes="throughput")
    changed = (np.asarray(common.image) != PICTURE).any(axis=2)
    reached = tools.combined_mask(tools.dilated(SEGS, FEATHER, element="square")) > 0
    assert not changed[~reached].any()
    for seg in SEGS:
        assert changed[window(seg.bbox)].mean() > 0.5


def test_what_comes_back_can_be_pasted(server: EmbeddedServer) -> None:
    common = detail(server, shapes="throughput")
    assert np.array_equal(tools.combined_mask(common.segs), tools.combined_mask(SEGS))
    pasted = paste(PICTURE, common.segs, feather=FEATHER)
    assert np.array_equal(np.asarray(pasted), np.asarray(common.image))
