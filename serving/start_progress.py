"""Detects a start that hangs: none of the server's processes computes, reads or grows."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.errors import CrashError
from serving.process import ResourceUse
from serving.times import START_CHECK_S, START_STALL_S

_IDLE_SHARE = 0.1
"""Share of a core that a process tree takes for heartbeats and polling alone, at most."""
_GROWTH_BYTES = 4 << 20


class StartProgress:
    """The progress of one start.

    Args:
        measure: what the server's processes have done so far.
        clock: seconds.
    """

    def __init__(
        self, measure: Callable[[], ResourceUse], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._measure = measure
        self._clock = clock
        self._checked_s = self._moved_s = clock()
        self._at_move = measure()

    def check(self) -> None:
        """To be called often; measures every few seconds.

        Raises:
            CrashError: there was no progress for :data:`~serving.times.START_STALL_S`.
        """
        now_s = self._clock()
        if now_s - self._checked_s < START_CHECK_S:
            return
        self._checked_s = now_s
        work, since_s = self._measure(), now_s - self._moved_s
        if (
            work.cpu_s - self._at_move.cpu_s > _IDLE_SHARE * since_s
            or abs(work.rss_bytes - self._at_move.rss_bytes) > _GROWTH_BYTES
            or work.read_bytes - self._at_move.read_bytes > _GROWTH_BYTES
        ):
            self._moved_s, self._at_move = now_s, work
        elif since_s >= START_STALL_S:
            raise CrashError(
                f"tritonserver hangs while starting: its processes did nothing for {since_s:.0f} s"
            )
