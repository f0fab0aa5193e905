"""When refused callers should try again: :class:`RetryAfter`."""

from __future__ import annotations

import bisect
import random
import time
from collections.abc import Callable

FLOOR_S = 0.5
MOST_S = 60.0
"""Less than many an estimate: others may leave, and estimates err."""
_SPREAD = 0.25
"""Of the time, at random on top of it, so that a crowd does not come back together."""
_MOST_TOLD = 10_000


class RetryAfter:
    """Estimates when there will be room for a refused request, behind all that were refused before
    it and are not back yet.

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
        """When those that were refused come again."""

    def __call__(self, room_s: float, interval_s: float) -> float:
        """Seconds until the caller should come again, :data:`FLOOR_S` at least.

        Args:
            room_s: until there is room for one request, by estimate.
            interval_s: from then on, until there is room for one more.
        """
        now_s = self._clock()
        del self._due_s[: bisect.bisect_right(self._due_s, now_s)]
        wait_s = max(room_s, FLOOR_S) + len(self._due_s) * interval_s
        wait_s = min(self.spread(wait_s), MOST_S)
        if len(self._due_s) < _MOST_TOLD:
            bisect.insort(self._due_s, now_s + wait_s)
        return wait_s

    def spread(self, wait_s: float) -> float:
        """A time that differs from caller to caller, never shorter."""
        return max(wait_s, FLOOR_S) * (1 + _SPREAD * self._draw())
