"""The metrics page of the real server: every metric of ours is there, and moves when it should."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from benchmarks.metrics_page import LINE, Page, growth
from networks.diffusion import DiffusionExport
from segs_client import Cancelled, Client, InvalidRequest, StepEvent, StreamUpdate
from serving.process import model_processes
from serving.server import EmbeddedServer
from tests.service.observed import (
    page_text,
    scrape,
    settled,
    wait_for_the_dead,
    wait_idle,
)
from tests.service.test_gone import SMALL, arguments
from tests.waiting import wait_until
from triton_models.metrics import METRICS
from triton_models.state import ENGINE_MODEL, model_of

pytestmark = pytest.mark.server

PICTURE = np.random.default_rng(5).integers(0, 256, (96, 128, 3), np.uint8)
BOX = (40, 30, 60, 50)
LARGE = (10, 10, 90, 90)
FRONT_END, STREAM = 'model="segs_detailer"', 'model="segs_detailer_stream"'
SHAPE = 'network="sd15_unet",shape="8x8"'
MOST_ROWS = DiffusionExport.max_batch


def wait_for_growth(server: EmbeddedServer, before: Page, wanted: Page) -> Page:
    """Until all of these have grown by just so much, which shows within a second or two."""

    def grown() -> Page | None:
        now = scrape(server)
        return now if all(growth(before, now, *key) == by for key, by in wanted.items()) else None

    return wait_until(grown)


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Client]:
    with Client(server.grpc_url, pipeline="sd15") as opened:
        opened.detail(PICTURE, [BOX], steps=2, **SMALL)  # all series are there then
        yield opened


def test_every_metric_is_there_as_documented(server: EmbeddedServer, client: Client) -> None:
    def kinds_of(text: str) -> dict[str, str]:
        return dict(re.findall(r"^# TYPE (segs_\w+) (\w+)$", text, re.MULTILINE))

    wait_until(lambda: kinds_of(page_text(server)).keys() == METRICS.keys())
    text = page_text(server)
    assert kinds_of(text) == {name: metric.kind for name, metric in METRICS.items()}
    told = dict(re.findall(r"^# HELP (segs_\w+) (.+)$", text, re.MULTILINE))
    assert told == {name: metric.meaning for name, metric in METRICS.items()}
    for name, labels, _ in LINE.findall(text):
        if not name.startswith("segs_"):
            continue
        metric = METRICS[re.sub(r"_(bucket|sum|count)$", "", name) if name not in METRICS else name]
        assert set(re.findall(r'(\w+)="', labels)) - {"le"} == set(metric.labels)


def test_a_request_moves_what_it_is_about(server: EmbeddedServer, client: Client) -> None:
    before = settled(server)
    client.detail(PICTURE, [BOX, LARGE], steps=3, cycle=1, batch_size=2, force_inpaint=False,
                  prompt="a new prompt", negative="a new prompt", **SMALL)  # fmt: skip
    now = wait_for_growth(
        server,
        before,
        {
            ("segs_requests_answered_total", FRONT_END): 1,
            ("segs_request_seconds_count", FRONT_END): 1,
            ("segs_segments_total", 'status="enhanced"'): 2,
            ("segs_segments_total", 'status="skipped_large_enough"'): 2,
            ("segs_stage_seconds_count", 'stage="prepare"'): 1,
            ("segs_stage_seconds_count", 'stage="encode"'): 2,
            ("segs_stage_seconds_count", 'stage="sample"'): 2,
            ("segs_stage_seconds_count", 'stage="decode"'): 2,
            ("segs_stage_seconds_count", 'stage="composite"'): 1,
            ("segs_cache_requests_total", 'cache="crop",result="miss"'): 1,
            ("segs_cache_requests_total", 'cache="crop",result="hit"'): 1,
            ("segs_cache_requests_total", 'cache="text",result="miss"'): 1,
            ("segs_cache_requests_total", 'cache="text",result="hit"'): 3,
            # Two passes, three steps, both sides.
            ("segs_batch_rows_total", SHAPE): 12,
            # Triton's own count of the same.
            ("nv_inference_count", 'model="sd15_unet",version="1"'): 12,
        },
    )
    batches = growth(before, now, "nv_inference_exec_count", 'model="sd15_unet",version="1"')
    for name, labels in (("segs_batch_fill_ratio", SHAPE), ("segs_step_seconds", SHAPE[:19])):
        assert growth(before, now, f"{name}_count", labels) == batches
        assert growth(before, now, f"{name}_sum", labels) > 0
    assert growth(before, now, "segs_text_cache_bytes") > 0


def test_refusals_and_late_requests_are_counted_by_code(
    server: EmbeddedServer, client: Client
) -> None:
    before = settled(server)
    with pytest.raises(InvalidRequest):
        client.detail(PICTURE, [(40, 30, 600, 500)], **SMALL)
    with pytest.raises(InvalidRequest):
        list(client.stream(PICTURE, [(40, 30, 600, 500)], **SMALL))
    with (
        InferenceServerClient(server.grpc_url) as triton,
        pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"),
    ):
        triton.infer(**{**arguments(), "timeout": 700_000})
    wait_for_growth(
        server,
        before,
        {
            ("segs_requests_refused_total", f'code="INVALID_ARGUMENT",{FRONT_END}'): 1,
            ("segs_requests_refused_total", f'code="INVALID_ARGUMENT",{STREAM}'): 1,
            ("segs_errors_total", f'code="DEADLINE_EXCEEDED",{FRONT_END}'): 1,
            ("segs_errors_total", f'code="INTERNAL",{FRONT_END}'): 0,
            ("segs_requests_answered_total", FRONT_END): 0,
            ("segs_request_seconds_count", FRONT_END): 2,
        },
    )


def _begin(client: Client, name: str, boxes: int, steps: int) -> Iterator[StreamUpdate]:
    """A stream that is under way and would go on for long."""
    some = [(x, y, x + 8, y + 8) for y in range(0, 80, 8) for x in range(0, 120, 8)]
    stream = client.stream(PICTURE, some[:boxes], steps=steps, request_id=name, **SMALL)
    assert any(isinstance(update.event, StepEvent) for update in stream)
    return stream


def test_what_is_under_way_shows_and_a_cancel_ends_it(
    server: EmbeddedServer, client: Client
) -> None:
    before = settled(server)
    asked = _begin(client, "to be cancelled", boxes=1, steps=9000)
    left = _begin(client, "to be left", boxes=80, steps=300)

    def busy() -> Page | None:
        now = scrape(server)
        is_busy = now["segs_live", ""] > 0 < now["segs_queued", ""]
        return now if is_busy and now["segs_streams_followed", ""] == 2 else None

    now = wait_until(busy)
    assert now["segs_live", ""] + now["segs_queued", ""] == 81
    assert now["segs_requests_in_flight", STREAM] == 2
    assert now["segs_queue_seconds", ""] > 0
    client.cancel("to be cancelled")
    with pytest.raises(Cancelled):
        list(asked)
    left.close()  # type: ignore[attr-defined]
    wait_idle(server)
    idle = wait_for_growth(
        server,
        before,
        {
            ("segs_requests_cancelled_total", f'cause="asked",{STREAM}'): 1,
            ("segs_requests_cancelled_total", f'cause="gone",{STREAM}'): 1,
            ("segs_live", ""): 0,
            ("segs_queued", ""): 0,
            ("segs_queue_seconds", ""): 0,
            ("segs_requests_in_flight", STREAM): 0,
            ("segs_streams_followed", ""): 0,
        },
    )
    # What was dropped is in no batch any more, but for the one that was under way.
    assert growth(idle, settled(server), "segs_batch_rows_total", SHAPE) <= MOST_ROWS


def test_counters_go_on_after_the_engine_was_replaced(
    server: EmbeddedServer, client: Client
) -> None:
    before = settled(server)
    for instance, pid in model_processes(server.pid).items():
        if model_of(instance) == ENGINE_MODEL:
            os.kill(pid, signal.SIGKILL)
    server.reload(wait_for_the_dead(server))
    client.detail(PICTURE, [BOX], steps=3, **SMALL)
    wait_for_growth(
        server,
        before,
        {
            ("segs_batch_rows_total", SHAPE): 6,
            ("segs_stage_seconds_count", 'stage="sample"'): 1,
            ("segs_live", ""): 0,
        },
    )
