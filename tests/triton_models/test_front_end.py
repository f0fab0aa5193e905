"""A request's way through a front end: answers, refusals, deadlines, clients that go, and stops."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest

from request_plan.limits import Limits
from request_plan.refusals import StoppingError
from segs_client.contract import ContractError, ErrorDetail
from segs_client.triton_messages import process_ended, server_stopping
from tests.triton_models.front_ends import Bench, StageCall, run
from tests.triton_models.pb_utils import Request, Sender, Tensor
from tests.virtual_time import now_s
from triton_models import environment, front_end
from triton_models.api_keys import ApiKeys
from triton_models.front_end import ClientRequest, FrontEnd
from triton_models.in_flight import EXPRESS_CALLS, MOST_CALLS
from triton_models.request_cost import RequestCost

PLAIN_CALLS = MOST_CALLS - EXPRESS_CALLS
CHECK = FrontEnd._check
"""The real one."""


async def fill(bench: Bench) -> list[tuple[asyncio.Task[ErrorDetail | None], StageCall]]:
    """So many requests are in flight that the next one waits."""
    tasks = [bench.send(Request(name=f"held {number}")) for number in range(PLAIN_CALLS)]
    return [(task, await bench.call(number)) for number, task in enumerate(tasks)]


def test_a_request_passes_to_the_stages_and_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.INTERNAL_TOKEN, "secret")

    async def test() -> None:
        request = Request({"request": [b"{}"]}, ["report", "other"], name="r", timeout_us=8_000_000)
        task = bench.send(request)
        call = await bench.call(0)
        fields = call.fields
        assert (fields["model_name"], fields["request_id"]) == ("segs_detailer_stages", "r")
        assert fields["requested_output_names"] == ["report"]
        assert [tensor.name() for tensor in fields["inputs"]] == ["request"]
        assert fields["parameters"]["inside"] == "secret"
        assert 0 < fields["timeout"] <= 8_000_000
        assert (bench.in_flight.calls, bench.front_end.pending) == (1, 1)
        bench.registry.enter(call.token)
        call.succeed(Tensor("report", np.zeros(3)))
        assert await task is None
        assert list(request.sender.responses[0].named()) == ["report"]
        assert (bench.in_flight.calls, bench.in_flight.requests) == (0, 0)
        assert (bench.front_end.pending, bench.front_end.arrived) == (0, 1)
        assert bench.registry.process_of(call.token) is None
        assert bench.poller.watched == {}

    run(bench, test)


def test_what_is_wrong_is_refused_before_it_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        await fill(bench)
        monkeypatch.setattr(FrontEnd, "_check", CHECK)
        empty = np.empty(0, np.uint8)
        request = Request({"request": np.array([b"{"], object), "image": empty}, name="wrong")
        detail = await bench.send(request)
        assert detail is not None
        assert (detail.code, detail.request_id) == ("INVALID_ARGUMENT", "wrong")
        assert bench.in_flight.waiting == 0

    run(bench, test)


def test_the_stages_refusal_is_passed_on(bench: Bench) -> None:
    async def test() -> None:
        task = bench.send(Request(name="r"))
        call = await bench.call(0)
        refused = ErrorDetail(code="NOT_FOUND", message="no such wildcard")
        call.fail(f"in ensemble 'x', {refused.to_status_message()}")
        detail = await task
        assert detail is not None
        assert (detail.code, detail.message) == ("NOT_FOUND", "no such wildcard")
        assert detail.request_id == "r"
        assert bench.in_flight.calls == 0

    run(bench, test)


def test_an_error_of_tritons_is_an_incident(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        task = bench.send(Request())
        (await bench.call(0)).fail("an error with /a/path")
        detail = await task
        assert detail is not None
        assert detail.code == "INTERNAL"
        assert "/a/path" not in detail.message
        assert "/a/path" in caplog.text

    run(bench, test)


def test_a_deadline_ends_a_request_in_flight_and_has_the_stages_drop_it(bench: Bench) -> None:
    async def test() -> None:
        begun_s = now_s()
        task = bench.send(Request(timeout_us=2_000_000))
        call = await bench.call(0)
        detail = await task
        assert detail is not None
        assert detail.code == "DEADLINE_EXCEEDED"
        assert now_s() - begun_s == pytest.approx(2.0)
        assert bench.registry.is_cancelled(call.token)
        assert bench.in_flight.calls == 1  # the thread is free only when Triton has answered
        call.fail("cancelled")
        await asyncio.sleep(0.1)
        assert bench.in_flight.calls == 0
        assert not bench.registry.is_cancelled(call.token)

    run(bench, test)


@pytest.mark.parametrize("turns", range(5))
def test_an_interruption_as_triton_answers_leaves_no_file(
    bench: Bench, state_folder: Path, turns: int
) -> None:
    """So many turns of the event loop lie between the two."""

    async def test() -> None:
        task = bench.send(Request())
        call = await bench.call(0)
        call.succeed()
        for _ in range(turns):
            await asyncio.sleep(0)
        for asked in bench.front_end._live:
            asked.interrupt(StoppingError())
        await task
        assert bench.in_flight.calls == 0
        assert list((state_folder / "cancelled").iterdir()) == []

    run(bench, test)


def test_a_deadline_ends_a_waiting_request(bench: Bench) -> None:
    async def test() -> None:
        await fill(bench)
        begun_s = now_s()
        detail = await bench.send(Request(timeout_us=3_000_000))
        assert detail is not None
        assert detail.code == "DEADLINE_EXCEEDED"
        assert now_s() - begun_s == pytest.approx(3.0)
        assert bench.in_flight.waiting == 0
        assert bench.in_flight.requests == PLAIN_CALLS
        assert len(bench.calls) == PLAIN_CALLS

    run(bench, test)


def test_a_time_out_without_end_is_none(bench: Bench) -> None:
    async def test() -> None:
        task = bench.send(Request(timeout_us=2**64 - 1))
        call = await bench.call(0)
        assert call.fields["timeout"] == 0
        await asyncio.sleep(1000)
        call.succeed()
        assert await task is None

    run(bench, test)


def test_a_client_that_goes_frees_what_it_holds(bench: Bench) -> None:
    async def test() -> None:
        held = await fill(bench)
        waits = Request(name="waits")
        task = bench.send(waits)
        await asyncio.sleep(1)
        assert bench.in_flight.waiting == 1
        bench.poller.gone(waits)
        detail = await task
        assert detail is not None
        assert detail.code == "CANCELLED"
        assert bench.in_flight.waiting == 0
        in_flight = Request(name="in flight")
        task = bench.send(in_flight)
        held[0][1].succeed()
        call = await bench.call(PLAIN_CALLS)
        bench.poller.gone(in_flight)
        detail = await task
        assert detail is not None
        assert detail.code == "CANCELLED"
        assert bench.registry.is_cancelled(call.token)
        call.fail("cancelled")
        await asyncio.sleep(0.1)
        assert bench.in_flight.calls == PLAIN_CALLS - 1

    run(bench, test)


def test_a_response_that_cannot_be_sent_ends_the_request_all_the_same(bench: Bench) -> None:
    async def test() -> None:
        task = bench.send(Request(sender=Sender(ConnectionError("the client has gone"))))
        (await bench.call(0)).succeed()
        assert await task is None
        assert (bench.front_end.pending, bench.in_flight.requests) == (0, 0)

    run(bench, test)


def test_a_drain_refuses_new_and_waiting_requests_and_lets_those_in_flight_end(
    bench: Bench,
) -> None:
    async def test() -> None:
        held = await fill(bench)
        waiting = [bench.send(Request()) for _ in range(3)]
        await asyncio.sleep(1)
        bench.front_end.drain("refuse")
        bench.front_end.drain("refuse")  # it is read every second
        for task in (*waiting, bench.send(Request())):
            detail = await task
            assert detail is not None
            assert detail.code == "UNAVAILABLE"
            assert "the server is stopping" in detail.message
        assert bench.front_end.pending == PLAIN_CALLS
        held[0][1].succeed()
        assert await held[0][0] is None
        bench.front_end.drain("end")
        for task, call in held[1:]:
            detail = await task
            assert detail is not None
            assert detail.code == "UNAVAILABLE"
            assert bench.registry.is_cancelled(call.token)
        assert bench.front_end.pending == 0

    run(bench, test)


def test_a_drain_that_is_ordered_during_the_check_refuses_the_request(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(front_end: FrontEnd, asked: ClientRequest) -> RequestCost:
        await asyncio.sleep(1)
        return RequestCost(1.0)

    async def test() -> None:
        task = bench.send(Request())
        await asyncio.sleep(0.5)
        bench.front_end.drain("refuse")
        detail = await task
        assert detail is not None
        assert "the server is stopping" in detail.message
        assert bench.calls == []

    monkeypatch.setattr(FrontEnd, "_check", check)
    run(bench, test)


def seconds_in(detail: ErrorDetail) -> float:
    """When to come again, by the message."""
    (number,) = re.findall(r"try again in ([\d.]+) s$", detail.message)
    return float(number)


def test_overload_is_refused_with_a_time(bench: Bench) -> None:
    bench.limits = Limits(max_requests=PLAIN_CALLS)

    async def test() -> None:
        await fill(bench)
        times_s = []
        for _ in range(5):
            detail = await bench.send(Request())
            assert detail is not None
            assert detail.code == "UNAVAILABLE"
            assert detail.message.startswith("overloaded")
            assert detail.retry_after_s is not None
            assert detail.retry_after_s >= 0.5
            assert seconds_in(detail) == pytest.approx(detail.retry_after_s, abs=0.06)
            times_s.append(detail.retry_after_s)
        assert times_s[-1] > 4.0  # four others come before, one a second
        assert bench.in_flight.requests == PLAIN_CALLS

    run(bench, test)


def test_the_step_engines_refusal_is_spread_too(bench: Bench) -> None:
    async def test() -> None:
        refused = ErrorDetail(
            code="UNAVAILABLE", message="overloaded: try again in 0.0 s", retry_after_s=0.0
        )
        task = bench.send(Request())
        (await bench.call(0)).fail(refused.to_status_message())
        detail = await task
        assert detail is not None
        assert detail.retry_after_s is not None
        assert detail.retry_after_s >= 0.5
        assert seconds_in(detail) == pytest.approx(detail.retry_after_s, abs=0.06)

    run(bench, test)


def test_a_server_that_triton_stops_is_named_as_the_reason(bench: Bench) -> None:
    async def test() -> None:
        task = bench.send(Request())
        (await bench.call(0)).fail(
            "in ensemble 'x', Server is stopping, scheduler is not accepting"
        )
        detail = await task
        assert detail is not None
        assert detail.message.partition(":")[0] == str(StoppingError()).partition(":")[0]

    run(bench, test)


def test_canaries_are_not_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.INTERNAL_TOKEN, "secret")

    async def test() -> None:
        canary = bench.send(Request(given=json.dumps({"inside": "secret"})))
        claims = bench.send(Request(given=json.dumps({"inside": "guessed"})))
        await bench.call(1)
        assert (bench.front_end.pending, bench.front_end.arrived) == (1, 1)
        for call in bench.calls:
            call.succeed()
        assert [await canary, await claims] == [None, None]
        assert bench.front_end.arrived == 1

    run(bench, test)


def test_a_request_without_a_key_is_refused_where_one_is_required(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        def refuse(self: ApiKeys, parameters: str) -> str:
            raise ContractError(ErrorDetail(code="UNAUTHENTICATED", message="a key is required"))

        monkeypatch.setattr(ApiKeys, "check", refuse)
        bench.front_end.keys = ApiKeys.__new__(ApiKeys)
        detail = await bench.send(Request())
        assert detail is not None
        assert detail.code == "UNAUTHENTICATED"
        assert bench.calls == []

    run(bench, test)


@pytest.mark.parametrize(
    ("message", "is_death", "is_stop"),
    [
        ("Stub process 'sample_0_0' is not healthy.", True, False),
        ("in ensemble 'a', Stub process is not healthy.", True, False),
        ("Model 'sample' is not ready", True, False),
        ("Request for unknown model: 'sample' has no available versions", True, False),
        ("Request for unknown model: 'sample' version 1 is not at ready state", True, False),
        ("unknown ControlNet 'sample'", False, False),
        ("the model is not ready for that", False, False),
        ("Server not ready", False, True),
        ("Server is stopping, scheduler is not accepting new requests", False, True),
    ],
)
def test_tritons_messages_are_told_apart(message: str, is_death: bool, is_stop: bool) -> None:
    assert process_ended(message) is is_death
    assert server_stopping(message) is is_stop


def test_waiting_requests_are_reported_every_few_seconds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[tuple[float, int]] = []

    def report(asked: front_end.ClientRequest, in_flight: object, cost: object) -> None:
        standing = bench.in_flight.standing(RequestCost(1.0), asked.arrived_s)
        reported.append((now_s(), standing[0]))

    monkeypatch.setattr(front_end.ClientRequest, "report_waiting", report)

    async def test() -> None:
        held = await fill(bench)
        reported.clear()
        begun_s = now_s()
        task = bench.send(Request())
        await asyncio.sleep(11)
        held[0][1].succeed()
        await bench.call(PLAIN_CALLS)
        await asyncio.sleep(20)
        bench.calls[-1].succeed()
        assert await task is None
        assert [round(at_s - begun_s) for at_s, _ in reported] == [0, 5, 10]
        assert {ahead for _, ahead in reported} == {PLAIN_CALLS}

    run(bench, test)
