"""How the minutes of a run are shared over its parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Budget:
    """Seconds from now on.

    Args:
        weights: of the parts that are run, in their order.
        clock: seconds that only rise.
    """

    def __init__(
        self,
        seconds: float,
        weights: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._weights = dict(weights)
        self._clock = clock
        self._end_s = clock() + seconds
        self._part_end_s = self._end_s

    def begin(self, part: str) -> None:
        """Gives a part its share of what is left, by its weight among the parts to come."""
        share = self._weights[part] / sum(self._weights.values())
        del self._weights[part]
        now_s = self._clock()
        self._part_end_s = now_s + max(0.0, self._end_s - now_s) * share

    @property
    def left_s(self) -> float:
        """Of the part's share; not above 0 once it is over."""
        return self._part_end_s - self._clock()
