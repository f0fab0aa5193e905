"""Streams: events in order, those of a waiting request too, and calls that cancel."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from segs_client.contract import ErrorDetail
from segs_client.events import (
    CANCEL_PARAMETER,
    EVENT_OUTPUT,
    CancelledEvent,
    ErrorEvent,
    QueuedEvent,
    ResultEvent,
    StreamEvent,
    parse_event,
)
from tests.triton_models.front_ends import Bench, run
from tests.triton_models.pb_utils import Request
from tests.virtual_time import use_virtual_time
from triton_models import event_writer
from triton_models.event_channel import END, EventSubscriber
from triton_models.in_flight import EXPRESS_CALLS, MOST_CALLS
from triton_models.stream_front_end import StreamFrontEnd

PLAIN_CALLS = MOST_CALLS - EXPRESS_CALLS
INPUTS: dict[str, Any] = {"request": [b"{}"], "image": []}


@pytest.fixture(autouse=True)
def virtual_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    use_virtual_time(monkeypatch, event_writer.__name__)


class Streams:
    """The front end of streams on a bench."""

    def __init__(self, bench: Bench) -> None:
        self.subscriber = EventSubscriber(None)
        self._front_end = StreamFrontEnd(bench.front_end, self.subscriber)

    def send(self, request: Request) -> asyncio.Task[list[StreamEvent]]:
        """A request arrives; the task has its events."""
        return asyncio.ensure_future(self._answer(request))

    async def _answer(self, request: Request) -> list[StreamEvent]:
        await self._front_end.answer(request, request.sender)
        finals = request.sender.is_final
        assert finals == [*[False] * (len(finals) - 1), True]
        return events(request)

    def publish(self, token: str, **fields: Any) -> None:
        """The step engine publishes an event."""
        self.subscriber._handlers[token](fields, b"")


def events(request: Request) -> list[StreamEvent]:
    """Those that were sent, whose numbers are without gaps."""
    texts = [response.named()[EVENT_OUTPUT].tobytes() for response in request.sender.responses]
    found = [parse_event(text) for text in texts]
    assert [event.seq for event in found] == list(range(len(found)))
    return found


STEP = {"event": "step", "seg": 0, "batch_pass": 0, "cycle": 0, "steps": 4}


def test_the_steps_of_a_request_are_events(bench: Bench) -> None:
    async def test() -> None:
        streams = Streams(bench)
        task = streams.send(Request(INPUTS, name="r"))
        call = await bench.call(0)
        assert call.fields["parameters"]["followed"] == "1"
        for step in (1, 2):
            streams.publish(call.token, **STEP, step=step)
            await asyncio.sleep(1)
        streams.publish(call.token, event=END)
        call.succeed()
        found = await task
        assert [event.event for event in found] == ["step", "step", "result"]
        assert isinstance(found[-1], ResultEvent)
        assert {event.request_id for event in found} == {"r"}
        assert len(streams.subscriber) == 0

    run(bench, test)


def test_a_waiting_request_gets_its_position(bench: Bench) -> None:
    async def test() -> None:
        streams = Streams(bench)
        held = [streams.send(Request(INPUTS)) for _ in range(PLAIN_CALLS)]
        await bench.call(PLAIN_CALLS - 1)
        task = streams.send(request := Request(INPUTS))
        await asyncio.sleep(6)
        first, second = events(request)
        assert isinstance(first, QueuedEvent)
        assert isinstance(second, QueuedEvent)
        assert (first.position, first.estimate_s) == (PLAIN_CALLS, None)
        bench.calls[0].succeed()
        (await bench.call(PLAIN_CALLS)).succeed()
        assert [event.event for event in await task] == ["queued", "queued", "result"]
        assert [event.event for event in await held[0]] == ["result"]

    run(bench, test)


def test_events_of_a_call_that_is_lost_are_dropped(bench: Bench) -> None:
    async def test() -> None:
        streams = Streams(bench)
        task = streams.send(Request(INPUTS))
        first = await bench.call(0)
        bench.die_with(first)
        second = await bench.call(1)
        bench.dead.clear()
        assert list(streams.subscriber._handlers) == [second.token]
        second.succeed()
        assert [event.event for event in await task] == ["result"]

    run(bench, test)


def test_a_call_cancels_the_requests_of_its_id_and_key(bench: Bench) -> None:
    async def test() -> None:
        streams = Streams(bench)
        tasks = [streams.send(Request(INPUTS, name=name)) for name in ("a", "a", "b")]
        await bench.call(2)
        cancel = json.dumps({CANCEL_PARAMETER: "a"})
        (event,) = await streams.send(Request(given=cancel, name="call"))
        assert isinstance(event, CancelledEvent)
        for task in tasks[:2]:
            (last,) = await task
            assert isinstance(last, ErrorEvent)
            assert (last.error.code, last.error.message) == (
                "CANCELLED",
                "the request was cancelled",
            )
        (again,) = await streams.send(Request(given=cancel))
        assert isinstance(again, ErrorEvent)
        assert again.error.code == "NOT_FOUND"
        bench.calls[2].succeed()
        (last,) = await tasks[2]
        assert isinstance(last, ResultEvent)
        stats = bench.front_end.stats
        assert stats.cancelled.values()["segs_detailer", "asked"] == 2
        assert stats.answered.values()["segs_detailer",] == 1

    run(bench, test)


def test_a_cancelled_request_does_not_wait_for_the_engines_last_event(bench: Bench) -> None:
    async def test() -> None:
        streams = Streams(bench)
        task = streams.send(Request(INPUTS, name="a"))
        call = await bench.call(0)
        streams.publish(call.token, **STEP, step=1)
        await asyncio.sleep(1)
        await streams.send(Request(given=json.dumps({CANCEL_PARAMETER: "a"})))
        assert [event.event for event in await task] == ["step", "error"]

    run(bench, test)


@pytest.mark.parametrize("missing", ["request", "image"])
def test_a_missing_input_is_an_event_too(bench: Bench, missing: str) -> None:
    async def test() -> None:
        given = {name: value for name, value in INPUTS.items() if name != missing}
        (last,) = await Streams(bench).send(Request(given))
        assert isinstance(last, ErrorEvent)
        assert (last.error.code, last.error.field) == ("INVALID_ARGUMENT", missing)

    run(bench, test)


def test_a_refusal_of_the_stages_is_an_event(bench: Bench) -> None:
    async def test() -> None:
        task = Streams(bench).send(Request(INPUTS))
        refused = ErrorDetail(
            code="UNAVAILABLE", message="overloaded: try again in 9.0 s", retry_after_s=9.0
        )
        (await bench.call(0)).fail(refused.to_status_message())
        (last,) = await task
        assert isinstance(last, ErrorEvent)
        assert last.error.code == "UNAVAILABLE"
        assert (last.error.retry_after_s or 0.0) >= 9.0

    run(bench, test)
