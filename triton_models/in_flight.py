"""Bounds a front end's requests in flight, and orders the waiting ones.

Triton gives a Python model a fixed pool of threads. A call of another model uses one of them until
it is answered, and sending a response needs one, too: a model that fills its pool with calls cannot
answer. So the calls are bounded well below the pool, and all other requests wait in the event loop,
where they cost nothing and can be cancelled or expire.
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
"""Threads of each Python model: Triton's ``--backend-config=python,thread-pool-size``."""
RESERVED_THREADS = 16
"""Threads for responses and metrics."""
MOST_CALLS = 24
"""Most requests in flight. The rest of the pool is for calls that are lost with a stage's process:
their threads never return."""
LOST_LIMIT = POOL_THREADS - RESERVED_THREADS - MOST_CALLS
"""With more lost calls, the server has to be restarted."""
EXPRESS_CALLS = 4
"""Places in flight that are kept for small requests."""
_SMALL = 0.25
"""A request is small up to this fraction of the mean work in flight."""
_OVERTAKEN = 8.0
"""Others overtake a waiting request for at most this many times its own duration."""
_LEAST_COUNT = 10
"""Ended requests before the first estimate: the first to end are the smallest, and those in flight
are half done."""
_DECAY = 0.95
"""Decay of the measurements for each ended request."""


@dataclass(eq=False)
class Place:
    """A request's place in flight."""

    cost: RequestCost
    is_express: bool = False
    """Whether it is one of those for small requests."""


@dataclass(eq=False)
class _Waiter:
    turn_s: float
    cost: RequestCost
    place: asyncio.Future[Place] = field(repr=False)


class _Free:
    """The free places during one dispatch.

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
        """Whether no place is left."""
        return self._plain + self._express <= 0

    def take(self, cost: RequestCost) -> Place | None:
        """A place for the next request; None if it has to wait."""
        if cost.is_large and cost.picture_bytes > self._large_bytes:
            self._large_bytes = -math.inf  # else others could overtake it forever
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
            ``max_in_flight_bytes`` are used. If there is no other request, a request is accepted.
        clock: seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._held: set[Place] = set()
        self._waiting: list[_Waiter] = []
        self.requests = 0
        """Accepted and unanswered requests."""
        self.message_bytes = 0
        """Bytes of their tensors, as received."""
        self.lost = 0
        """Calls that never end."""
        # Measured only while requests wait or are refused and none has a large picture: only then
        # the stages are as fast as possible.
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
        """Counts a request inside the context, from its arrival to its response.

        Raises:
            OverloadedError: a limit would be exceeded; ``retry_after_s`` is the estimated time
                until it is not.
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
        """Estimated seconds until these requests and half of those in flight are done; None without
        measurements."""
        own_s = [self._own_s(each) for each in costs]
        held_s = [self._own_s(place.cost) for place in self._held]
        return sum(own_s) + sum(held_s) / 2 if self._is_measured else None

    @property
    def _is_measured(self) -> bool:
        return self._done_count >= _LEAST_COUNT and self._done_work > 0

    @property
    def waiting_s(self) -> float:
        """Estimated seconds of the waiting requests."""
        return sum(self._own_s(waiter.cost) for waiter in self._waiting)

    def _own_s(self, cost: RequestCost) -> float:
        """Seconds of the stages' time that a request takes."""
        rate = self._busy_s / self._done_work if self._is_measured else 0.0
        return cost.work * rate + cost.picture_s

    @property
    def interval_s(self) -> float:
        """Mean seconds between the ends of two requests under load."""
        return self._busy_s / self._done_count if self._is_measured else 1.0

    def standing(self, cost: RequestCost, arrived_s: float) -> tuple[int, float | None]:
        """The number of requests before a waiting one, and the seconds until its end."""
        turn_s = self._turn_s(cost, arrived_s)
        ahead = [each.cost for each in self._waiting if each.turn_s < turn_s]
        return len(self._held) + len(ahead), self._wait_s([cost, *ahead])

    def _turn_s(self, cost: RequestCost, arrived_s: float) -> float:
        return arrived_s + _OVERTAKEN * self._own_s(cost) / cost.weight

    async def place(self, cost: RequestCost, arrived_s: float) -> Place:
        """Waits for a place; :meth:`release` or :meth:`lose` has to follow.

        The order is that of the arrival time plus eight times the request's duration (a quarter of
        that at high priority, four times that at low). Four places are kept for small requests.
        Large pictures in flight are bounded by their bytes.

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
        """Gives free places to waiting requests in their order."""
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
        """Counts the time since the last call if the stages were fully used; returns whether they
        were."""
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
            done: whether the request was done to its end.
        """
        if self._measure() and done:
            self._done_work = _DECAY * (self._done_work + place.cost.work)
            self._done_count = _DECAY * (self._done_count + 1)
            self._busy_s *= _DECAY
        self._held.discard(place)
        self._dispatch()

    def lose(self, place: Place) -> None:
        """Frees the place of a lost call, which never frees its thread."""
        self.lost += 1
        self.release(place)
