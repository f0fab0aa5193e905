"""What becomes of a request whose stage's process dies or is missing."""

from __future__ import annotations

import asyncio

import pytest

from segs_client.contract import ErrorDetail
from tests.triton_models.front_ends import MISSING, Bench, run
from tests.triton_models.pb_utils import Request
from tests.virtual_time import now_s

SUCCESSOR_S = 30.0
"""A missing process is waited for so long."""


def is_lost(detail: ErrorDetail | None) -> bool:
    assert detail is not None
    assert detail.code == "UNAVAILABLE"
    assert detail.retry_after_s is not None
    assert detail.retry_after_s >= 0.5
    return detail.message.startswith("a part of the server died meanwhile")


def test_a_request_whose_process_dies_is_sent_once_more(bench: Bench) -> None:
    async def test() -> None:
        task = bench.send(Request(name="r"))
        first = await bench.call(0)
        bench.die_with(first)
        second = await bench.call(1)
        bench.dead.clear()
        assert second.token != first.token
        assert second.fields["request_id"] == "r"
        assert bench.registry.process_of(first.token) is None
        second.succeed()
        assert await task is None
        assert (bench.in_flight.calls, bench.in_flight.lost) == (0, 1)
        first.fail("late")  # Triton ends it after all
        await asyncio.sleep(0.1)
        assert (bench.in_flight.calls, bench.in_flight.lost) == (0, 1)

    run(bench, test)


def test_a_request_that_takes_two_processes_down_is_lost(bench: Bench) -> None:
    async def test() -> None:
        task = bench.send(Request())
        bench.die_with(await bench.call(0))
        bench.die_with(await bench.call(1))
        assert is_lost(await task)
        assert len(bench.calls) == 2
        assert (bench.in_flight.calls, bench.in_flight.lost) == (0, 2)

    run(bench, test)


def test_a_call_between_two_stages_is_not_taken_for_lost(bench: Bench) -> None:
    """The process that it was inside dies; the next stage's takes it a moment later."""

    async def test() -> None:
        task = bench.send(Request())
        call = await bench.call(0)
        bench.die_with(call)
        await asyncio.sleep(0.15)
        bench.dead.clear()
        bench.registry.enter(call.token)
        await asyncio.sleep(5)
        call.succeed()
        assert await task is None
        assert bench.in_flight.lost == 0

    run(bench, test)


def test_a_request_that_comes_while_a_process_is_missing_waits_for_it(bench: Bench) -> None:
    async def test() -> None:
        bench.are_alive = False
        await asyncio.sleep(1)
        begun_s = now_s()
        task = bench.send(Request())
        await asyncio.sleep(SUCCESSOR_S - 5)
        assert bench.calls == []
        bench.are_alive = True
        (await bench.call(0)).succeed()
        assert await task is None
        bench.are_alive = False
        await asyncio.sleep(1)
        begun_s = now_s()
        assert is_lost(await bench.send(Request()))
        assert now_s() - begun_s == pytest.approx(SUCCESSOR_S, abs=0.2)
        assert len(bench.calls) == 1

    run(bench, test)


def test_a_request_that_triton_cannot_pass_on_is_sent_again_until_it_can(bench: Bench) -> None:
    async def test() -> None:
        task = bench.send(Request())
        for number in range(5):
            (await bench.call(number)).fail(MISSING)
        (await bench.call(5)).succeed()
        assert await task is None
        assert (bench.in_flight.calls, bench.in_flight.lost) == (0, 0)

    run(bench, test)


def test_a_process_that_stays_missing_is_waited_for_30_s(bench: Bench) -> None:
    async def test() -> None:
        begun_s = now_s()
        task = bench.send(Request())
        answered = 0
        while not task.done():
            if len(bench.calls) > answered:
                bench.calls[answered].fail(MISSING)
                answered += 1
            await asyncio.sleep(0.05)
        assert is_lost(await task)
        assert now_s() - begun_s == pytest.approx(SUCCESSOR_S, abs=0.5)
        assert answered > 10

    run(bench, test)


def test_missing_processes_are_no_deaths(bench: Bench) -> None:
    """Two times missing and one death: the request is sent on."""

    async def test() -> None:
        task = bench.send(Request())
        (await bench.call(0)).fail(MISSING)
        bench.die_with(await bench.call(1))
        call = await bench.call(2)
        bench.dead.clear()
        call.fail(MISSING)
        (await bench.call(3)).succeed()
        assert await task is None
        assert bench.in_flight.lost == 1

    run(bench, test)


def test_a_deadline_ends_the_wait_for_a_process(bench: Bench) -> None:
    async def test() -> None:
        bench.are_alive = False
        await asyncio.sleep(1)
        detail = await bench.send(Request(timeout_us=2_000_000))
        assert detail is not None
        assert detail.code == "DEADLINE_EXCEEDED"
        assert bench.in_flight.requests == 0

    run(bench, test)


def test_a_call_that_cannot_be_made_frees_its_place(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("no memory for the call")

    monkeypatch.setattr("tests.triton_models.pb_utils.InferenceRequest", fail)

    async def test() -> None:
        detail = await bench.send(Request())
        assert detail is not None
        assert detail.code == "INTERNAL"
        assert (bench.in_flight.calls, bench.in_flight.requests) == (0, 0)

    run(bench, test)


@pytest.mark.parametrize("succeeds", [True, False])
def test_only_requests_that_succeed_count_as_work_that_was_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, succeeds: bool
) -> None:
    """A refusal comes at once: the queue would look shorter than it is."""
    dones: list[bool] = []

    async def test() -> None:
        monkeypatch.setattr(bench.in_flight, "release", lambda _, done: dones.append(done))
        task = bench.send(Request())
        call = await bench.call(0)
        if succeeds:
            call.succeed()
        else:
            call.fail("overloaded")
        await task

    run(bench, test)
    assert dones == [succeeds]
