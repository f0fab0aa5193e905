"""Requests that share batches get the picture that each gets alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from segs_client import Client
from segs_client.messages import DetailResult
from serving.server import EmbeddedServer
from tests.service.observed import batches_shared
from tests.waiting import wait_until

pytestmark = pytest.mark.server

PICTURE = np.random.default_rng(5).integers(0, 256, (192, 256, 3), dtype=np.uint8)
COMMON = {"guide_size": 128, "max_size": 192, "crop_factor": 2.0}
REQUESTS: list[dict[str, Any]] = [
    {"prompt": "a face", "steps": 8, "sampler_name": "euler", "scheduler": "karras"},
    {"prompt": "a (smiling:1.3) face", "steps": 8, "sampler_name": "dpmpp_2m", "seed": 3},
    {"prompt": "eyes", "steps": 6, "sampler_name": "heun", "denoise": 0.4},
    {"prompt": "", "steps": 9, "sampler_name": "euler_ancestral", "cfg": 3.0},
    {"prompt": "hair", "steps": 5, "sampler_name": "dpmpp_2m_sde", "cycle": 2},
    {"prompt": "long " * 100, "steps": 7, "noise_mask": False},
    {"prompt": "a face", "steps": 8, "guide_size": 96, "cfg": 1.0},
    {"prompt": "a face", "steps": 4, "batch_size": 2, "noise_mask_feather": 0},
]
BOXES = [(40, 50, 80, 100), (150, 60, 200, 100)]


def send(url: str, options: dict[str, Any]) -> DetailResult:
    with Client(url, pipeline="sd15", timeout_s=120) as client:
        return client.detail(PICTURE, BOXES, **{**COMMON, **options})


def test_alone_and_among_seven_others(server: EmbeddedServer) -> None:
    alone = [send(server.grpc_url, options) for options in REQUESTS]
    half = len(REQUESTS) // 2
    before = batches_shared(server, half)
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        together = list(pool.map(lambda options: send(server.grpc_url, options), REQUESTS))
    for one, among in zip(alone, together, strict=True):
        difference = np.abs(np.asarray(one.image, float) - np.asarray(among.image, float))
        assert difference.max() <= 2
        assert difference.mean() <= 0.05
        assert [seg.status for seg in among.report.segs] == ["enhanced"] * len(one.report.segs)
    wait_until(lambda: batches_shared(server, half) > before)


def test_a_pictures_pixels_outside_the_masks_stay(server: EmbeddedServer) -> None:
    result = send(server.grpc_url, REQUESTS[0])
    changed = np.abs(np.asarray(result.image, int) - PICTURE.astype(int)).max(axis=2) > 0
    feather = 5 + 1
    for x1, y1, x2, y2 in BOXES:
        assert changed[y1:y2, x1:x2].mean() > 0.5
        changed[y1 - feather : y2 + feather, x1 - feather : x2 + feather] = False
    assert not changed.any()
