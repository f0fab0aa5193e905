"""Whatever comes and goes: places are bounded, each request gets one, and all are freed."""

from __future__ import annotations

import asyncio
from typing import Literal, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from request_plan.limits import Limits
from triton_models.in_flight import MOST_CALLS, InFlight, Place
from triton_models.request_cost import LARGE_BYTES, RequestCost

TICKS = 5
"""Of the event loop, until all that can go on has."""
MOST_BYTES = 3 * LARGE_BYTES


class Move(NamedTuple):
    """What happens: a request comes; one of those that are there is ended or cancelled."""

    kind: Literal["come", "end", "lose", "cancel"]
    number: int = 0
    """Which of the requests, modulo their number."""
    cost: RequestCost = RequestCost(1.0)
    later_s: float = 0.0
    settles: bool = True
    """Whether the event loop goes on before the next move."""


costs = st.builds(
    RequestCost,
    st.sampled_from([0.0, 0.01, 0.1, 1.0, 100.0]),
    st.sampled_from([0, 1000, LARGE_BYTES + 1, 2 * LARGE_BYTES, 10 * LARGE_BYTES]),
    st.sampled_from([0.25, 1.0, 4.0]),
)
moves = st.builds(
    Move,
    st.sampled_from(["come", "come", "come", "end", "end", "lose", "cancel"]),
    st.integers(0, 100),
    costs,
    st.sampled_from([0.0, 0.1, 10.0]),
    st.booleans(),
)


class World:
    """Requests of one front end, and a clock that moves with them."""

    def __init__(self) -> None:
        self.now_s = 0.0
        limits = Limits(max_in_flight_bytes=MOST_BYTES)
        self.in_flight = InFlight(limits, lambda: self.now_s)
        self.live: list[asyncio.Task[Place]] = []

    async def make(self, move: Move) -> None:
        self.now_s += move.later_s
        if move.kind == "come":
            place = self.in_flight.place(move.cost, self.now_s)
            self.live.append(asyncio.ensure_future(place))
        elif self.live:
            task = self.live[move.number % len(self.live)]
            if move.kind == "cancel" and not task.done():
                task.cancel()
                self.live.remove(task)
            elif move.kind != "cancel" and task.done():
                self.live.remove(task)
                if move.kind == "lose":
                    self.in_flight.lose(task.result())
                else:
                    self.in_flight.release(task.result(), done=True)
        if move.settles:
            await self.settle()
        self.check()

    def check(self) -> None:
        held = [place.cost for place in self.in_flight._held]
        assert len(held) <= MOST_CALLS
        large = [each.picture_bytes for each in held if each.is_large]
        assert len(large) < 2 or sum(large) <= MOST_BYTES

    async def settle(self) -> None:
        for _ in range(TICKS):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Ends what is in flight until no request is left."""
        await self.settle()
        for _ in range(len(self.live)):
            done = [task for task in self.live if task.done()]
            assert done or not self.live, "requests wait, and none is in flight"
            for task in done:
                self.live.remove(task)
                self.in_flight.release(task.result(), done=True)
            self.check()
            await self.settle()
        assert not self.live
        assert (self.in_flight.calls, self.in_flight.waiting) == (0, 0)


@settings(deadline=None, max_examples=200)
@given(st.lists(moves, max_size=150))
def test_places_are_bounded_and_each_request_gets_one(made: list[Move]) -> None:
    async def run() -> None:
        world = World()
        for move in made:
            await world.make(move)
        await world.end()

    asyncio.run(run())


@settings(deadline=None, max_examples=100)
@given(st.lists(costs, min_size=1, max_size=40), costs)
def test_no_request_waits_for_ever(coming: list[RequestCost], cost: RequestCost) -> None:
    """Others keep coming, one for each that ends; its turn comes, and it goes soon after."""

    async def run() -> None:
        world = World()
        for each in coming * (MOST_CALLS // len(coming) + 1):
            await world.make(Move("come", cost=each))
        waits = asyncio.ensure_future(world.in_flight.place(cost, world.now_s))
        await world.settle()
        turns_s = [waiter.turn_s for waiter in world.in_flight._waiting]
        step_s = max(1.0, (max(turns_s, default=0.0) - world.now_s) / 100)
        for number in range(400):
            if waits.done():
                break
            next_cost = coming[number % len(coming)]
            await world.make(Move("come", cost=next_cost, later_s=step_s, settles=False))
            held = next(index for index, task in enumerate(world.live) if task.done())
            await world.make(Move("end", number=held))
        assert waits.done()

    asyncio.run(run())
