"""The supervisor's numbers for Prometheus: each is there and moves."""

from __future__ import annotations

import re
import urllib.request

import pytest

from serving.health import Health, HealthServer
from serving.health_metrics import CONTENT_TYPE

_LINE = re.compile(r"^(\w+) (\S+)$", re.MULTILINE)


@pytest.fixture
def health() -> Health:
    return Health()


def _scrape(health: Health) -> dict[str, float]:
    with (
        HealthServer(health, "127.0.0.1", 0) as server,
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as page,
    ):
        assert page.headers["Content-Type"] == CONTENT_TYPE
        text = page.read().decode()
    return {name: float(value) for name, value in _LINE.findall(text)}


def test_every_number_moves(health: Health) -> None:
    assert _scrape(health) == {"segs_ready": 0, "segs_restarts_total": 0, "segs_reloads_total": 0}
    health.ready(["base"])
    health.answered(1700000000.5, 0.25)
    assert _scrape(health) == {
        "segs_ready": 1,
        "segs_restarts_total": 0,
        "segs_reloads_total": 0,
        "segs_canary_seconds": 0.25,
        "segs_canary_timestamp_seconds": 1700000000.5,
    }
    health.restarted(2, "it was killed")
    health.reloading(3, "its unet ended")
    moved = _scrape(health)
    assert moved["segs_ready"] == 0
    assert (moved["segs_restarts_total"], moved["segs_reloads_total"]) == (2, 3)
