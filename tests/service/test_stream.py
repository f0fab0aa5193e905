"""Streams on the real server: their events, how they end, and that nothing stays behind."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from segs_client import (
    AcceptedEvent,
    Cancelled,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    PreviewEvent,
    ResultEvent,
    SegmentEvent,
    SegmentStartedEvent,
    StepEvent,
    StreamUpdate,
)
from segs_client.contract import STREAM_MODEL_NAME
from segs_client.messages import build
from segs_client.streaming import open_stream, stream_message
from serving.errors import ModelsDownError, ServingError
from serving.server import EmbeddedServer
from tests.service.observed import wait_idle

pytestmark = pytest.mark.server

PICTURE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
BOXES = [(40, 30, 60, 50), (10, 10, 30, 30)]
SMALL: dict[str, Any] = {"guide_size": 64, "max_size": 64, "denoise": 1.0}


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Client]:
    with Client(server.grpc_url, pipeline="sd15") as opened:
        yield opened


def until_step(stream: Iterator[StreamUpdate], step: int) -> StepEvent:
    for update in stream:
        if isinstance(update.event, StepEvent) and update.event.step >= step:
            return update.event
    raise AssertionError("the stream ended")


def test_all_is_told_in_order_and_the_result_is_the_same(client: Client) -> None:
    asked: dict[str, Any] = {**SMALL, "steps": 8, "seed": 3, "batch_size": 2}
    told = list(
        client.stream(
            PICTURE,
            [*BOXES, (90, 60, 110, 80)],
            request_id="streamed",
            stream={"preview_every": 2, "segment_pictures": True},
            output={"seg_images": "uint8"},
            **asked,
        )
    )
    events = [update.event for update in told]
    assert [event.seq for event in events] == list(range(len(events)))
    assert {event.request_id for event in events} == {"streamed"}
    times = [event.at_s for event in events]
    assert times == sorted(times)
    accepted, *_, last = events
    assert isinstance(accepted, AcceptedEvent)
    assert (accepted.position, accepted.seg_passes, accepted.previews) == (0, 6, True)
    assert isinstance(last, ResultEvent)
    result = told[-1].result
    assert result is not None
    for seg, batch_pass in ((seg, batch_pass) for seg in range(3) for batch_pass in range(2)):
        mine = [
            update
            for update in told
            if getattr(update.event, "seg", None) == seg
            and getattr(update.event, "batch_pass", None) == batch_pass
        ]
        assert isinstance(mine[0].event, SegmentStartedEvent)
        done = mine[-1].event
        assert isinstance(done, SegmentEvent)
        assert (done.status, done.steps_run) == ("enhanced", 8)
        assert mine[-1].picture is not None and mine[-1].picture.size == (64, 64)
        steps = [each.event.step for each in mine if isinstance(each.event, StepEvent)]
        assert steps == sorted(set(steps))
        assert all(1 <= step <= 8 for step in steps)
    previews = [each for each in told if isinstance(each.event, PreviewEvent)]
    assert previews and all(each.picture is not None for each in previews)
    assert {each.event.step % 2 for each in previews if isinstance(each.event, PreviewEvent)} == {0}

    unary = client.detail(
        PICTURE, [*BOXES, (90, 60, 110, 80)], output={"seg_images": "uint8"}, **asked
    )
    np.testing.assert_array_equal(np.asarray(result.image), np.asarray(unary.image))
    for streamed, plain in zip(result.segs, unary.segs, strict=True):
        assert streamed.image is not None and plain.image is not None
        np.testing.assert_array_equal(streamed.image, plain.image)


def test_a_preview_has_the_picture_s_colours(client: Client) -> None:
    """At the end of the schedule a preview is what is decoded, shrunk, in rough."""
    told = list(
        client.stream(
            np.full((96, 128, 3), (200, 60, 40), np.uint8),
            [(32, 16, 96, 80)],
            guide_size=256,
            max_size=256,
            steps=12,
            denoise=0.05,
            stream={"preview_every": 1, "segment_pictures": True},
        )
    )
    preview = [each for each in told if isinstance(each.event, PreviewEvent)][-1].picture
    crop = next(each for each in told if isinstance(each.event, SegmentEvent)).picture
    assert preview is not None and crop is not None
    shrunk = np.asarray(crop.reduce(8), float)
    assert np.abs(np.asarray(preview, float) - shrunk).mean() < 30


def test_skipped_segs_are_told(client: Client) -> None:
    boxes = [(10, 10, 90, 90), *BOXES[:1]]
    stream = client.stream(PICTURE, boxes, steps=1, force_inpaint=False, guide_size=64)
    found = {}
    for update in stream:
        if isinstance(update.event, AcceptedEvent):
            assert update.event.seg_passes == 1
        if isinstance(update.event, SegmentEvent):
            found[update.event.seg] = update.event.status
    assert found == {0: "skipped_large_enough", 1: "enhanced"}


def test_refusals_are_those_of_the_other_door(client: Client) -> None:
    with pytest.raises(InvalidRequest) as refused:
        list(client.stream(PICTURE, [(40, 30, 600, 500)], request_id="bad"))
    assert (refused.value.field, refused.value.request_id) == ("segs.items.0.bbox", "bad")
    with pytest.raises(InvalidRequest, match=r"stream.preview_every: .* 0 … 1000"):
        client.stream(PICTURE, BOXES, stream={"preview_every": -1})


def test_closing_the_generator_cancels(server: EmbeddedServer, client: Client) -> None:
    stream = client.stream(PICTURE, BOXES, steps=9000, **SMALL)
    until_step(stream, 5)
    stream.close()
    wait_idle(server)


def test_cancel_by_id(server: EmbeddedServer, client: Client) -> None:
    stream = client.stream(PICTURE, BOXES, steps=9000, request_id="mine", **SMALL)
    until_step(stream, 5)
    with Client(server.grpc_url) as other:
        with pytest.raises(NotFound) as unknown:
            other.cancel("nobody")
        assert unknown.value.code == "NOT_FOUND"
        other.cancel("mine")
        with pytest.raises(Cancelled) as cancelled:
            list(stream)
        assert cancelled.value.request_id == "mine"
        with pytest.raises(NotFound):
            other.cancel("mine")
    wait_idle(server)


def test_one_stream_with_several_requests(server: EmbeddedServer, client: Client) -> None:
    """All of them end with it, and one of them by its id alone."""
    messages = [
        stream_message(build(PICTURE, BOXES, pipeline="sd15", steps=steps, **SMALL), name, 60.0)
        for name, steps in (("long", 9000), ("short", 2))
    ]
    channel = client._channel(0)
    ended = []
    call = open_stream(channel, messages, {})
    for response in call:
        text = response.infer_response.id
        final = {each.name for each in response.infer_response.outputs} >= {"report"}
        if final:
            ended.append(text)
            break
    assert ended == ["short"]
    call.cancel()
    wait_idle(server)


def test_the_deadline_ends_a_stream(server: EmbeddedServer, client: Client) -> None:
    with pytest.raises(DeadlineExceeded):
        list(client.stream(PICTURE, BOXES, steps=9000, timeout_s=1.0, **SMALL))
    wait_idle(server)


def test_a_client_that_has_died_is_noticed(server: EmbeddedServer, tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text(
        "import sys; import numpy as np; from segs_client import Client\n"
        "with Client(sys.argv[1], pipeline='sd15') as client:\n"
        f"    for update in client.stream(np.full((96, 128, 3), 128, np.uint8), {BOXES},"
        " steps=9000, guide_size=64, max_size=64):\n"
        "        print(update.event.event, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script), server.grpc_url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() != "step":
        assert process.poll() is None
    process.kill()
    process.communicate()
    wait_idle(server)


def test_a_hundred_streams_half_of_them_cancelled_leave_nothing(
    server: EmbeddedServer, client: Client
) -> None:
    rng = random.Random(0)
    cancelled = set(rng.sample(range(100), 50))
    after_s = {number: rng.uniform(0.0, 1.5) for number in cancelled}

    def one(number: int) -> str:
        steps = 5000 if number in cancelled else rng.randint(1, 4)
        name = f"one of many {number}"
        stream = client.stream(PICTURE, BOXES[:1], steps=steps, request_id=name, **SMALL)
        begun_s = time.monotonic()
        try:
            for update in stream:
                late = time.monotonic() - begun_s > after_s.get(number, 1e9)
                if late and number % 2:
                    stream.close()
                    return "closed"
                if late:
                    client.cancel(name, timeout_s=30)
                if update.result is not None:
                    return update.result.report.segs[0].status
        except (Cancelled, NotFound):
            return "cancelled"
        return "ended"

    with ThreadPoolExecutor(12) as pool:
        ends = list(pool.map(one, range(100)))
    assert {ends[number] for number in range(100) if number not in cancelled} == {"enhanced"}
    assert {ends[number] for number in cancelled} == {"closed", "cancelled"}
    wait_idle(server)


def test_the_death_of_this_front_end_takes_a_new_server(server: EmbeddedServer) -> None:
    """Triton never ends the streams of a dead decoupled model."""
    with pytest.raises(ServingError, match="it held the requests"):
        server.reload(ModelsDownError("died", {f"{STREAM_MODEL_NAME}_0_0": None}))


def test_who_does_not_read_costs_little(server: EmbeddedServer, client: Client) -> None:
    """Neither the engine's time nor memory that grows with what there is to tell."""
    asked: dict[str, Any] = {**SMALL, "stream": {"preview_every": 1, "preview_size_px": 512}}
    list(client.stream(PICTURE, BOXES, steps=5, **asked))
    built = build(PICTURE, BOXES, pipeline="sd15", steps=9000, **asked)

    def rss_bytes() -> int:
        root = psutil.Process(server.pid)
        return sum(each.memory_info().rss for each in (root, *root.children(recursive=True)))

    before = rss_bytes()
    calls = [
        open_stream(client._channel(0), [stream_message(built, f"stuck {number}", 99.0)], {})
        for number in range(4)
    ]
    firsts = [next(call) for call in calls]
    time.sleep(5)
    assert len(firsts) == 4 and rss_bytes() - before < 64 << 20
    # Another one is told its steps meanwhile, and is done.
    told = list(client.stream(PICTURE, BOXES, steps=4, **asked))
    assert told[-1].result is not None
    for call in calls:
        call.cancel()
    wait_idle(server)
