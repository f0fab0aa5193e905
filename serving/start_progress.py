"""Detects a start that hangs: none of the server's processes computes, reads or grows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil

from serving.errors import CrashError
from serving.times import START_CHECK_S, START_STALL_S

_IDLE_SHARE = 0.1
"""Share of a core that a process tree takes for heartbeats and polling alone, at most."""
_GROWTH_BYTES = 4 << 20


class Work(NamedTuple):
    """What a process tree has done so far."""

    cpu_s: float
    rss_bytes: int
    read_bytes: int


def work_done(pid: int) -> Work:
    """Sums of a process and its descendants, without those that end meanwhile."""
    cpu_s, rss_bytes, read_bytes = 0.0, 0, 0
    below: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        below = [root, *root.children(recursive=True)]
    for process in below:
        with contextlib.suppress(psutil.Error):
            times, read = process.cpu_times(), process.io_counters().read_chars
            cpu_s += times.user + times.system
            rss_bytes += process.memory_info().rss
            read_bytes += read
    return Work(cpu_s, rss_bytes, read_bytes)


class StartProgress:
    """The progress of one start.

    Args:
        measure: what the server's processes have done so far.
        clock: seconds.
    """

    def __init__(
        self, measure: Callable[[], Work], clock: Callable[[], float] = time.monotonic
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
