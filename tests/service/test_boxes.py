"""Boxes with fractions, and out of the picture, on a real server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segs_client import Client, InvalidRequest, Seg, Segs, crop_region
from serving.server import EmbeddedServer

pytestmark = pytest.mark.server

SIZE = (96, 128)
PICTURE = np.random.default_rng(5).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
BOXES = np.array([[40.25, 30.5, 60.75, 52.1], [-2.5, -4.0, 15.0, 30.9]], np.float32)
OPTIONS: dict[str, Any] = {
    "pipeline": "sd15",
    "steps": 2,
    "guide_size": 64,
    "max_size": 96,
    "crop_factor": 2.0,
}


def test_boxes_come_back_unrounded(server: EmbeddedServer) -> None:
    segs = Segs.from_boxes(BOXES, SIZE, crop_factor=2.0)
    with Client(server.grpc_url) as client:
        by_boxes = client.detail(PICTURE, BOXES, **OPTIONS)
        by_segs = client.detail(PICTURE, segs, **OPTIONS)
    for result in (by_boxes, by_segs):
        assert [list(seg.bbox) for seg in result.report.segs] == BOXES.tolist()
        for seg, box in zip(result.report.segs, BOXES, strict=True):
            assert seg.crop_region == crop_region(box, SIZE, 2.0)
            assert seg.status == "enhanced"
    np.testing.assert_array_equal(np.asarray(by_boxes.image), np.asarray(by_segs.image))
    for one, other in zip(by_boxes.segs, by_segs.segs, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)


def test_the_fraction_decides_the_scale(server: EmbeddedServer) -> None:
    region, mask = (30, 20, 70, 60), np.ones((40, 40), np.float32)
    sizes = {}
    for side in (20, 20.25, 20.5):
        segs = Segs(SIZE, (Seg(mask, (40, 30, 40 + side, 60), region),))
        with Client(server.grpc_url) as client:
            (seg,) = client.detail(PICTURE, segs, **{**OPTIONS, "max_size": 256}).report.segs
        sizes[side] = seg.sampled_size
    assert sizes == {20: (128, 128), 20.25: (126, 126), 20.5: (124, 124)}


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (
            (128.5, 3, 140, 20),
            r"segs\.items\.0\.bbox: its centre x 134\.25, y 11\.5 is outside the picture .*"
            "x 0 … 128, y 0 … 96",
        ),
        ((-100, 0, 20, 50), r"bbox: its centre x -40, y 25 is outside the picture"),
        ((0.25, 0.25, 0.75, 0.75), r"segs\.items\.0\.bbox: smaller than a pixel"),
    ],
)
def test_what_cannot_be_cut_is_refused(server: EmbeddedServer, box: Any, words: str) -> None:
    with Client(server.grpc_url) as client, pytest.raises(InvalidRequest, match=words):
        client.detail(PICTURE, [box], **OPTIONS)
