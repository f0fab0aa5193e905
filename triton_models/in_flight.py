"""How many requests a front end has inside Triton's calls, and the order in which others follow.

Triton gives a Python model a fixed pool of threads. A call to another model holds one of them until
it is answered, and sending a response takes one too, first in, first out: a model that fills its
pool with calls cannot answer. So the calls are bounded well below the pool, and all other
requests wait in the event loop, where they cost nothing and can be cancelled or expire.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from request_plan.limits import Limits
from request_plan.refusals import OverloadedError
from triton_models.request_cost import RequestCost

POOL_THREADS = 64
"""Of each Python model: Triton's ``--backend-config=python,thread-pool-size``."""
RESERVED_THREADS = 16
"""Of these, for responses and metrics."""
MOST_CALLS = 24
"""In flight at once. What is left of the pool makes up for calls that are lost with a stage's
process, whose threads never return."""
LOST_LIMIT = POOL_THREADS - RESERVED_THREADS - MOST_CALLS
"""Beyond so many lost calls the server has to be started again."""
EXPRESS_CALLS = 4
"""Of the calls in flight, kept for small requests."""
_SMALL = 0.25
"""A request of at most so much of the mean work in flight is small."""
_OVERTAKEN = 8.0
"""Others overtake a waiting request for at most so many times what it takes."""
_LEAST_COUNT = 10
"""Of requests that have ended, before anything is estimated by them: the first to end are the
smallest, and those in flight are half done."""
_DECAY = 0.95
"""Of what was measured, for each request that ends."""


@dataclass(eq=False)
class Place:
    """A request's place among those in flight."""

    cost: RequestCost
    is_express: bool = False
    """One of those that are kept for small requests."""


@dataclass(eq=False)
class _Waiter:
    turn_s: float
    cost: RequestCost
    place: asyncio.Future[Place] = field(repr=False)


class _Free:
    """The places that are free, while they are given away in the order of turns.

    Args:
        limit: of places.
        large_bytes: limit of the large pictures in flight.
    """

    def __init__(self, held: Collection[Place], limit: int, large_bytes: int) -> None:
        plain = max(1, limit - EXPRESS_CALLS)
        express = sum(place.is_express for place in held)
        self._plain = plain - (len(held) - express)
        self._express = limit - plain - express
        mean_work = sum(place.cost.work for place in held) / len(held) if held else 0.0
        self._small_work = _SMALL * mean_work
        large = [place.cost.picture_bytes for place in held if place.cost.is_large]
        self._most_large_bytes = large_bytes
        self._large_bytes = large_bytes - sum(large) if large else math.inf

    @property
    def is_none(self) -> bool:
        """Whether no place is free."""
        return self._plain + self._express <= 0

    def take(self, cost: RequestCost) -> Place | None:
        """A place for the next request; None if it has to wait."""
        if cost.is_large and cost.picture_bytes > self._large_bytes:
            self._large_bytes = -math.inf  # or others would go before it again and again
            return None
        is_express = self._plain <= 0
        if is_express and (cost.is_large or cost.work > self._small_work):
            return None
        if self.is_none:
            return None
        self._express -= is_express
        self._plain -= not is_express
        if cost.is_large:
            left_bytes = min(self._large_bytes, self._most_large_bytes)
            self._large_bytes = left_bytes - cost.picture_bytes
        return Place(cost, is_express)


class InFlight:
    """The requests of one front end: those in flight, and those that wait for a place.

    To be used from one event loop.

    Args:
        limits: ``max_requests``, ``max_message_bytes``, ``max_queue_s`` and
            ``max_in_flight_bytes`` of it; a request that is alone is always accepted.
        clock: seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._held: set[Place] = set()
        self._waiting: list[_Waiter] = []
        self.requests = 0
        """Accepted and not answered yet."""
        self.message_bytes = 0
        """Of their tensors, as they came."""
        self.lost = 0
        """Calls that never end."""
        # Measured while requests wait or are refused, as only then the stages are as fast as they
        # can be, and none has a large picture.
        self._done_work = 0.0
        self._done_count = 0.0
        self._busy_s = 0.0
        self._seen_s = clock()

    @property
    def calls(self) -> int:
        """Requests in flight."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    @property
    def limit(self) -> int:
        """Most requests in flight."""
        return max(1, min(MOST_CALLS, POOL_THREADS - RESERVED_THREADS - self.lost))

    @contextlib.contextmanager
    def accepted(self, cost: RequestCost, message_bytes: int) -> Iterator[None]:
        """Counts a request from its arrival until it is answered.

        Raises:
            OverloadedError: it would be too much; ``retry_after_s`` is the time until there is
                room, by estimate.
        """
        self._check(cost, message_bytes)
        self._measure()
        self.requests += 1
        self.message_bytes += message_bytes
        try:
            yield
        finally:
            self._measure()
            self.requests -= 1
            self.message_bytes -= message_bytes

    def _check(self, cost: RequestCost, message_bytes: int) -> None:
        if self.requests == 0:
            return
        limits = self._limits
        if self.requests >= limits.max_requests:
            raise OverloadedError(self.interval_s, "max_requests")
        if self.message_bytes + message_bytes > limits.max_message_bytes:
            raise OverloadedError(self.interval_s, "max_message_bytes")
        queue_s = self._wait_s([cost, *(each.cost for each in self._waiting)])
        if queue_s is not None and queue_s > limits.max_queue_s:
            raise OverloadedError(queue_s - limits.max_queue_s, "max_queue_s")

    def _wait_s(self, costs: Iterable[RequestCost]) -> float | None:
        """Seconds until these and half of what is in flight are done, as measured; None if nothing
        was measured yet."""
        own_s = [self._own_s(each) for each in costs]
        held_s = [self._own_s(place.cost) for place in self._held]
        return sum(own_s) + sum(held_s) / 2 if self._is_measured else None

    @property
    def _is_measured(self) -> bool:
        return self._done_count >= _LEAST_COUNT and self._done_work > 0

    @property
    def waiting_s(self) -> float:
        """Seconds that the waiting requests take, by estimate."""
        return sum(self._own_s(waiter.cost) for waiter in self._waiting)

    def _own_s(self, cost: RequestCost) -> float:
        """Seconds that a request takes of the stages' time."""
        rate = self._busy_s / self._done_work if self._is_measured else 0.0
        return cost.work * rate + cost.picture_s

    @property
    def interval_s(self) -> float:
        """Mean seconds between two requests that end, while there is work."""
        return self._busy_s / self._done_count if self._is_measured else 1.0

    def standing(self, cost: RequestCost, arrived_s: float) -> tuple[int, float | None]:
        """How many requests go before a waiting one, and how long it takes to its end."""
        turn_s = self._turn_s(cost, arrived_s)
        ahead = [each.cost for each in self._waiting if each.turn_s < turn_s]
        return len(self._held) + len(ahead), self._wait_s([cost, *ahead])

    def _turn_s(self, cost: RequestCost, arrived_s: float) -> float:
        return arrived_s + _OVERTAKEN * self._own_s(cost) / cost.weight

    async def place(self, cost: RequestCost, arrived_s: float) -> Place:
        """Waits for a place; :meth:`release` or :meth:`lose` has to follow.

        The order is that of arrival, each time later by eight times what the request takes (a
        quarter of that at high priority, four times that at low). Four places are kept for small
        requests. Large pictures in flight are bounded by their bytes.

        Args:
            arrived_s: by the clock.
        """
        waiter = _Waiter(
            self._turn_s(cost, arrived_s), cost, asyncio.get_running_loop().create_future()
        )
        self._measure()
        bisect.insort(self._waiting, waiter, key=lambda each: each.turn_s)
        self._dispatch()
        try:
            return await waiter.place
        except asyncio.CancelledError:
            if waiter.place.done() and not waiter.place.cancelled():
                self.release(waiter.place.result())
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def _dispatch(self) -> None:
        """Gives free places to those whose turn it is."""
        free = _Free(self._held, self.limit, self._limits.max_in_flight_bytes)
        left = []
        for number, waiter in enumerate(self._waiting):
            if free.is_none:
                left += self._waiting[number:]
                break
            if waiter.place.done():  # cancelled
                continue
            if (place := free.take(waiter.cost)) is None:
                left.append(waiter)
                continue
            self._held.add(place)
            waiter.place.set_result(place)
        self._waiting = left

    def _measure(self) -> bool:
        """Counts the time since it was called last, if it shows how fast the networks are; whether
        it does."""
        now_s = self._clock()
        is_full = bool(self._waiting) or self.requests >= self._limits.max_requests
        is_measured = is_full and not any(each.cost.is_large for each in self._held)
        if is_measured:
            self._busy_s += now_s - self._seen_s
        self._seen_s = now_s
        return is_measured

    def release(self, place: Place, *, done: bool = False) -> None:
        """Frees a place.

        Args:
            done: whether the request was worked on to its end.
        """
        if self._measure() and done:
            self._done_work = _DECAY * (self._done_work + place.cost.work)
            self._done_count = _DECAY * (self._done_count + 1)
            self._busy_s *= _DECAY
        self._held.discard(place)
        self._dispatch()

    def lose(self, place: Place) -> None:
        """Frees a place whose call never ends: its thread of the pool is lost."""
        self.lost += 1
        self.release(place)
