"""How many requests are in flight, in which order the others follow, and which are refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from request_plan.limits import Limits
from request_plan.refusals import OverloadedError
from triton_models.in_flight import (
    EXPRESS_CALLS,
    LOST_LIMIT,
    MOST_CALLS,
    POOL_THREADS,
    RESERVED_THREADS,
    InFlight,
    Place,
)
from triton_models.request_cost import LARGE_BYTES, RequestCost

ONE = RequestCost(1.0)
SMALL = RequestCost(0.1)
LARGE = RequestCost(1.0, LARGE_BYTES + 1)
ENOUGH = 20
"""Requests that end, until the networks' speed is measured."""
TICKS = 5
"""Of the event loop, until all that can go on has."""


class Bench:
    """One front end's requests, and a clock that a test sets."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.now_s = 100.0
        self.in_flight = InFlight(limits or Limits(), lambda: self.now_s)
        self.granted: list[str] = []
        """Names of requests, as they got their places."""
        self.places: dict[str, Place] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, cost: RequestCost = ONE) -> bool:
        """A request arrives; whether it has a place at once."""
        self.tasks[name] = asyncio.ensure_future(self._wait(name, cost, self.now_s))
        await settle()
        return name in self.places

    async def _wait(self, name: str, cost: RequestCost, arrived_s: float) -> None:
        self.places[name] = await self.in_flight.place(cost, arrived_s)
        self.granted.append(name)

    async def fill(self, count: int = MOST_CALLS - EXPRESS_CALLS, cost: RequestCost = ONE) -> None:
        """So many requests get places."""
        for number in range(count):
            assert await self.ask(f"held {number}", cost)

    async def release(self, name: str, *, done: bool = True) -> None:
        self.in_flight.release(self.places.pop(name), done=done)
        await settle()

    async def measure(self, second_s: float) -> None:
        """The networks take so long for a unit of work; the bench is full before and after."""
        for _ in range(ENOUGH):
            assert not await self.ask("measured")
            self.now_s += second_s
            await self.release("held 0")
            self.places["held 0"] = self.places.pop("measured")
        self.granted.clear()


async def settle() -> None:
    for _ in range(TICKS):
        await asyncio.sleep(0)


def run(test: Callable[[Bench], Coroutine[Any, Any, None]], limits: Limits | None = None) -> None:
    """The test in an event loop."""

    async def main() -> None:
        await test(Bench(limits))

    asyncio.run(main())


def test_calls_and_responses_share_the_pool_of_threads() -> None:
    assert MOST_CALLS + RESERVED_THREADS + LOST_LIMIT == POOL_THREADS


def test_calls_are_bounded_and_some_are_kept_for_small_requests() -> None:
    async def test(bench: Bench) -> None:
        await bench.fill()
        assert not await bench.ask("as large as the others")
        for number in range(EXPRESS_CALLS):
            assert await bench.ask(f"small {number}", SMALL)
        assert not await bench.ask("one more", SMALL)
        assert (bench.in_flight.calls, bench.in_flight.waiting) == (MOST_CALLS, 2)
        await bench.release("small 0")
        assert bench.granted[-1] == "one more"
        await bench.release("held 0")
        assert bench.granted[-1] == "as large as the others"

    run(test)


def test_small_requests_that_keep_coming_leave_the_other_places_alone() -> None:
    async def test(bench: Bench) -> None:
        nothing = RequestCost(0.0)
        await bench.fill(cost=nothing)
        for number in range(EXPRESS_CALLS + 1):
            await bench.ask(f"express {number}", nothing)
        assert not await bench.ask("waits")
        assert not await bench.ask("behind it", nothing)
        for number in range(EXPRESS_CALLS):
            await bench.release(f"express {number}")
        assert bench.granted[-1] == "behind it"
        await bench.release("held 0")
        assert bench.granted[-1] == "waits"

    run(test)


def test_small_is_what_is_small_beside_those_in_flight() -> None:
    async def test(bench: Bench) -> None:
        await bench.fill(cost=SMALL)
        assert not await bench.ask("as small as the others", SMALL)
        assert not await bench.ask("large picture", RequestCost(0.0, LARGE_BYTES + 1))

    run(test)


def test_before_anything_is_measured_requests_keep_their_order() -> None:
    async def test(bench: Bench) -> None:
        await bench.fill()
        for number, work in enumerate([5.0, 1.0, 0.5, 100.0, 1.0]):
            assert not await bench.ask(f"{number}", RequestCost(work))
            bench.now_s += 0.01
        bench.granted.clear()
        for number in range(5):
            await bench.release(f"held {number}", done=False)
        assert bench.granted == ["0", "1", "2", "3", "4"]

    run(test)


def test_once_measured_short_requests_overtake_long_ones_for_a_while() -> None:
    async def test(bench: Bench) -> None:
        await bench.fill()
        await bench.measure(2.0)
        assert not await bench.ask("long", RequestCost(10.0))  # 20 s: its turn comes 160 s later
        bench.now_s += 100.0
        assert not await bench.ask("soon", ONE)  # 2 s: 16 s later
        bench.now_s += 50.0
        assert not await bench.ask("late", ONE)
        for number in range(3):
            await bench.release(f"held {number}", done=False)
        assert bench.granted == ["soon", "long", "late"]

    run(test)


def test_a_priority_divides_what_a_request_takes() -> None:
    async def test(bench: Bench) -> None:
        await bench.fill()
        await bench.measure(1.0)
        for name, weight in (("low", 0.25), ("normal", 1.0), ("high", 4.0)):
            assert not await bench.ask(name, RequestCost(1.0, weight=weight))
            bench.now_s += 0.5
        for number in range(3):
            await bench.release(f"held {number}", done=False)
        assert bench.granted == ["high", "normal", "low"]

    run(test)


def test_idle_time_is_not_measured() -> None:
    async def test(bench: Bench) -> None:
        await bench.fill(2)
        bench.now_s += 1000.0
        await bench.release("held 0")
        await bench.release("held 1")
        assert bench.in_flight.interval_s == 1.0
        assert bench.in_flight.standing(ONE, bench.now_s) == (0, None)

    run(test)


def test_a_server_that_refuses_by_number_is_measured_though_none_waits() -> None:
    async def test(bench: Bench) -> None:
        for number in range(ENOUGH):
            bench.now_s += 1000.0  # idle
            with bench.in_flight.accepted(ONE, 1):
                assert await bench.ask(f"a {number}")
                bench.now_s += 7.0  # there is room for another one
                with bench.in_flight.accepted(ONE, 1):
                    assert await bench.ask(f"b {number}")
                    bench.now_s += 0.2
                    await bench.release(f"a {number}")
            await bench.release(f"b {number}")
        assert bench.in_flight.interval_s == pytest.approx(0.2)

    run(test, Limits(max_requests=2))


def test_large_pictures_are_bounded_in_bytes_and_one_always_goes() -> None:
    async def test(bench: Bench) -> None:
        assert await bench.ask("alone", RequestCost(1.0, 4 * LARGE_BYTES))
        assert not await bench.ask("second", LARGE)
        assert await bench.ask("small", SMALL)  # it passes the one that waits
        await bench.release("alone")
        assert bench.granted[-1] == "second"
        assert await bench.ask("third", LARGE)  # as large as still fits
        assert not await bench.ask("fourth", RequestCost(1.0, 2 * LARGE_BYTES))
        await bench.release("second")
        bench.now_s += 60.0
        assert not await bench.ask("fifth", LARGE)  # it would fit, and go before the fourth
        assert await bench.ask("small too", SMALL)
        await bench.release("third")
        assert bench.granted[-1] == "fourth"
        await bench.release("fourth")
        assert bench.granted[-1] == "fifth"

    run(test, Limits(max_in_flight_bytes=2 * LARGE_BYTES + 2))


def test_a_request_that_is_cancelled_while_it_waits_is_removed() -> None:
    async def test(bench: Bench) -> None:
        await bench.fill()
        for name in ("first", "second"):
            await bench.ask(name)
        bench.tasks["first"].cancel()
        await settle()
        assert bench.in_flight.waiting == 1
        await bench.release("held 0")
        assert bench.granted[-1] == "second"
        assert bench.in_flight.calls == MOST_CALLS - EXPRESS_CALLS

    run(test)


def test_a_request_that_is_cancelled_as_it_gets_its_place_gives_it_back() -> None:
    async def test(bench: Bench) -> None:
        await bench.fill()
        for name in ("first", "second"):
            await bench.ask(name)
        bench.in_flight.release(bench.places.pop("held 0"))  # granted to the first one,
        assert bench.in_flight.waiting == 1
        bench.tasks["first"].cancel()  # which has not gone on yet
        await settle()
        assert bench.tasks["first"].cancelled()
        assert bench.granted[-1] == "second"
        assert bench.in_flight.calls == MOST_CALLS - EXPRESS_CALLS
        assert bench.in_flight.waiting == 0

    run(test)


def test_lost_calls_lower_the_limit_by_what_the_pool_cannot_spare() -> None:
    async def test(bench: Bench) -> None:
        in_flight = bench.in_flight

        async def lose_one() -> None:
            in_flight.lose(await in_flight.place(ONE, bench.now_s))

        for _ in range(LOST_LIMIT):
            await lose_one()
        assert (in_flight.limit, in_flight.calls) == (MOST_CALLS, 0)
        await lose_one()
        assert in_flight.limit == MOST_CALLS - 1
        await bench.fill(MOST_CALLS - 1 - EXPRESS_CALLS)
        assert not await bench.ask("one more")
        for number in range(MOST_CALLS - 1 - EXPRESS_CALLS):
            await bench.release(f"held {number}")
        await bench.release("one more")
        for _ in range(POOL_THREADS):
            await lose_one()
        assert in_flight.limit == 1
        assert await bench.ask("alone")
        assert not await bench.ask("second", SMALL)
        assert in_flight.lost == LOST_LIMIT + 1 + POOL_THREADS

    run(test)


def test_requests_are_bounded_in_number() -> None:
    in_flight = InFlight(Limits(max_requests=3))
    with contextlib.ExitStack() as accepted:
        for _ in range(3):
            accepted.enter_context(in_flight.accepted(ONE, 1))
        with pytest.raises(OverloadedError, match="try again") as refused:
            accepted.enter_context(in_flight.accepted(ONE, 1))
        assert refused.value.retry_after_s == in_flight.interval_s
        assert in_flight.requests == 3
    assert (in_flight.requests, in_flight.message_bytes) == (0, 0)


def test_bytes_of_all_requests_are_bounded() -> None:
    in_flight = InFlight(Limits(max_message_bytes=100))
    with in_flight.accepted(ONE, 60):
        with pytest.raises(OverloadedError), in_flight.accepted(ONE, 41):
            pass
        with in_flight.accepted(ONE, 40):
            assert (in_flight.requests, in_flight.message_bytes) == (2, 100)
    assert (in_flight.requests, in_flight.message_bytes) == (0, 0)


def test_the_queue_is_bounded_in_seconds_once_they_are_known() -> None:
    async def test(bench: Bench) -> None:
        in_flight = bench.in_flight
        with in_flight.accepted(ONE, 1):
            with in_flight.accepted(RequestCost(1e9), 1):  # nothing was measured yet
                pass
            await bench.fill()
            await bench.measure(2.0)  # 20 in flight: 40 s, of which half is left
            with in_flight.accepted(RequestCost(4.9), 1):
                pass
            await bench.ask("waits", RequestCost(2.0))
            with in_flight.accepted(RequestCost(2.9), 1):
                pass
            with pytest.raises(OverloadedError) as refused, in_flight.accepted(RequestCost(6.0), 1):
                pass
            assert refused.value.retry_after_s == pytest.approx(6.0)  # 4 + 12 + 20 - 30

    run(test, Limits(max_queue_s=30.0))


def test_a_request_that_is_alone_is_always_accepted() -> None:
    async def test(bench: Bench) -> None:
        await bench.fill()
        await bench.measure(1e6)
        with bench.in_flight.accepted(RequestCost(1e9, 1 << 40), 1000):
            assert bench.in_flight.requests == 1
            with pytest.raises(OverloadedError), bench.in_flight.accepted(ONE, 1):
                pass

    run(test, Limits(max_requests=1, max_message_bytes=100, max_queue_s=1.0))


def test_a_request_that_raises_is_not_counted_any_more() -> None:
    in_flight = InFlight(Limits())
    with pytest.raises(KeyError), in_flight.accepted(ONE, 100):
        raise KeyError
    assert (in_flight.requests, in_flight.message_bytes) == (0, 0)


def test_a_waiting_request_knows_its_position_and_its_time() -> None:
    async def test(bench: Bench) -> None:
        in_flight = bench.in_flight
        assert in_flight.standing(ONE, bench.now_s) == (0, None)
        await bench.fill()
        await bench.measure(2.0)
        held_s = 20 * 2.0 / 2
        await bench.ask("ahead", ONE)
        bench.now_s += 1.0
        position, estimate_s = in_flight.standing(ONE, bench.now_s)
        assert position == 20 + 1
        assert estimate_s == pytest.approx(held_s + 2.0 + 2.0)
        position, estimate_s = in_flight.standing(SMALL, bench.now_s)  # it overtakes
        assert position == 20
        assert estimate_s == pytest.approx(held_s + 0.2)

    run(test)
