"""Threads that decode and encode pictures, so that small ones do not wait for large ones."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from triton_models.request_cost import LARGE_BYTES, PICTURE_BYTES_PER_S

log = logging.getLogger(__name__)

_OVERTAKEN = 8.0
"""Others overtake a waiting request for at most so many times what it takes."""
_SMALL_THREADS = 2
_LARGE_NICENESS = 10
"""Of threads with large pictures: small ones and the step engine get a core first."""


class _Job(NamedTuple):
    turn_s: float
    number: int
    work: Callable[[], object]


class Lane:
    """Threads that work on jobs in the order of arrival, each time later by eight times what the
    job takes: small jobs overtake large ones, and no job waits for ever.

    Args:
        clock: seconds.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        niceness: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._niceness = niceness
        self._jobs: list[_Job] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        for number in range(threads):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def put(self, work: Callable[[], object], size_bytes: int = 0, weight: float = 1.0) -> None:
        """Adds a job, which raises nothing.

        Args:
            size_bytes: of its pixels.
            weight: of its priority.
        """
        turn_s = self._clock() + _OVERTAKEN * size_bytes / PICTURE_BYTES_PER_S / weight
        with self._changed:
            heapq.heappush(self._jobs, _Job(turn_s, next(self._numbers), work))
            self._changed.notify()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.nice(self._niceness)  # on Linux of this thread alone
        while True:
            with self._changed:
                while not self._jobs:
                    self._changed.wait()
                job = heapq.heappop(self._jobs)
            try:
                job.work()
            except Exception:
                log.exception("a job has failed")


class WorkLanes:
    """A lane for large pictures, one a core, and one for all other jobs."""

    def __init__(self) -> None:
        cores = len(os.sched_getaffinity(0))
        self._small = Lane("small", _SMALL_THREADS)
        self._large = Lane("large", cores, _LARGE_NICENESS)

    def put(self, work: Callable[[], object], size_bytes: int = 0, weight: float = 1.0) -> None:
        """Adds a job to the lane of its size; as :meth:`Lane.put`."""
        lane = self._large if size_bytes > LARGE_BYTES else self._small
        lane.put(work, size_bytes, weight)
