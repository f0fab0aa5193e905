"""The order of pictures that are decoded and encoded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from triton_models.request_cost import LARGE_BYTES, PICTURE_BYTES_PER_S
from triton_models.work_lanes import Lane, WorkLanes

SOON_S = 30.0
"""A test that waits for longer has failed."""


class Clock:
    """A clock that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Jobs:
    """Jobs that note the order in which they were worked on, behind one that holds the thread."""

    def __init__(self, put: Callable[[Callable[[], object]], object]) -> None:
        self.order: list[str] = []
        self._free = threading.Event()
        self._is_held = threading.Event()
        put(self._hold)
        assert self._is_held.wait(SOON_S)

    def _hold(self) -> None:
        self._is_held.set()
        assert self._free.wait(SOON_S)

    def named(self, name: str) -> Callable[[], object]:
        return lambda: self.order.append(name)

    def run(self, put: Callable[[Callable[[], object]], object]) -> list[str]:
        """Frees the thread; the order of all jobs, once the last one is done."""
        done = threading.Event()
        put(done.set)
        self._free.set()
        assert done.wait(SOON_S)
        return self.order


def test_small_jobs_overtake_large_ones_for_a_while() -> None:
    clock = Clock()
    lane = Lane("test", 1, clock=clock)
    jobs = Jobs(lane.put)
    second_bytes = int(PICTURE_BYTES_PER_S)
    lane.put(jobs.named("large"), second_bytes)  # its turn is 8 s after it came
    lane.put(jobs.named("first"))
    lane.put(jobs.named("second"))
    clock.now_s += 7.0
    lane.put(jobs.named("third"))
    clock.now_s += 2.0
    lane.put(jobs.named("last"))

    def put_last(job: Callable[[], object]) -> None:
        lane.put(job, 1000 * second_bytes)

    assert jobs.run(put_last) == ["first", "second", "third", "large", "last"]


def test_priorities_weigh_a_jobs_size() -> None:
    lane = Lane("test", 1, clock=Clock())
    jobs = Jobs(lane.put)
    lane.put(jobs.named("low"), 100, weight=0.25)
    lane.put(jobs.named("normal"), 100)
    lane.put(jobs.named("high"), 100, weight=4.0)
    assert jobs.run(lambda job: lane.put(job, 10**9)) == ["high", "normal", "low"]


def test_jobs_of_one_size_keep_their_order() -> None:
    lane = Lane("test", 1, clock=Clock())
    jobs = Jobs(lane.put)
    names = [f"{number}" for number in range(20)]
    for name in names:
        lane.put(jobs.named(name), 5)
    assert jobs.run(lambda job: lane.put(job, 5)) == names


def test_a_job_that_raises_does_not_end_its_thread(caplog: pytest.LogCaptureFixture) -> None:
    lane = Lane("test", 1)
    done = threading.Event()

    def fail() -> None:
        raise ValueError("a broken picture")

    with caplog.at_level(logging.ERROR):
        lane.put(fail)
        lane.put(done.set)
        assert done.wait(SOON_S)
    assert "a job has failed" in caplog.text
    assert "a broken picture" in caplog.text


def test_a_full_large_lane_does_not_stop_the_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = 2
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    lanes = WorkLanes()
    free, done = threading.Event(), threading.Event()
    working = threading.Semaphore(0)

    def hold() -> None:
        working.release()
        assert free.wait(SOON_S)

    for _ in range(cores + 3):
        lanes.put(hold, LARGE_BYTES + 1)
    for _ in range(cores):
        assert working.acquire(timeout=SOON_S)
    assert not working.acquire(blocking=False)  # one a core
    lanes.put(done.set, LARGE_BYTES)
    assert done.wait(SOON_S)
    free.set()
    for _ in range(3):
        assert working.acquire(timeout=SOON_S)
