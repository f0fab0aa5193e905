"""The retry time of refused requests: :class:`RetryAfter`."""

from __future__ import annotations

import bisect
import random
import time
from collections.abc import Callable

FLOOR_S = 0.5
MOST_S = 60.0
"""Upper limit, below many estimates: other requests may be cancelled, and estimates err."""
_SPREAD = 0.25
"""Random part added to the time, so that refused callers do not retry at the same time."""
_MOST_TOLD = 10_000


class RetryAfter:
    """Estimates when there will be room for a refused request, after all earlier refused ones that
    have not been sent again.

    Args:
        clock: seconds.
        draw: uniform over 0 … 1.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._draw = draw
        self._due_s: list[float] = []
        """Retry times of refused requests."""

    def __call__(self, room_s: float, interval_s: float) -> float:
        """Seconds until the caller should retry, at least :data:`FLOOR_S`.

        Args:
            room_s: estimated time until there is room for one request.
            interval_s: further time until there is room for one more.
        """
        now_s = self._clock()
        del self._due_s[: bisect.bisect_right(self._due_s, now_s)]
        wait_s = max(room_s, FLOOR_S) + len(self._due_s) * interval_s
        wait_s = min(self.spread(wait_s), MOST_S)
        if len(self._due_s) < _MOST_TOLD:
            bisect.insort(self._due_s, now_s + wait_s)
        return wait_s

    def spread(self, wait_s: float) -> float:
        """The time plus a random part."""
        return max(wait_s, FLOOR_S) * (1 + _SPREAD * self._draw())
