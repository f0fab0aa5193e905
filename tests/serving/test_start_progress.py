"""When a start counts as hanging."""

from __future__ import annotations

import os

import pytest

from serving.errors import CrashError
from serving.process import ResourceUse, resource_use
from serving.start_progress import StartProgress
from serving.times import START_CHECK_S, START_STALL_S

IDLE = ResourceUse(0.02, 0, 0)
"""Per second."""


def hangs(*per_second: ResourceUse, seconds: int = 120) -> bool:
    """Whether a start counts as hanging that does such work, in turn."""
    now_s, done = 0.0, ResourceUse(0.0, 0, 0)
    progress = StartProgress(lambda: done, lambda: now_s)
    for second in range(seconds):
        now_s += 1
        step = per_second[second % len(per_second)]
        done = ResourceUse(
            done.cpu_s + step.cpu_s,
            done.rss_bytes + step.rss_bytes,
            done.read_bytes + step.read_bytes,
        )
        try:
            progress.check()
        except CrashError as error:
            assert f"did nothing for {START_STALL_S:.0f} s" in str(error)
            return True
    return False


def test_heartbeats_alone_are_no_progress() -> None:
    assert hangs(IDLE)


@pytest.mark.parametrize(
    "work", [ResourceUse(0.5, 0, 0), ResourceUse(0.0, 1 << 20, 0), ResourceUse(0.0, 0, 1 << 20)]
)
def test_computing_growing_and_reading_are(work: ResourceUse) -> None:
    assert not hangs(work)
    assert not hangs(*[IDLE] * 20, *[work] * 10)


def test_it_is_measured_every_few_seconds() -> None:
    measured: list[float] = []
    now_s = 0.0

    def measure() -> ResourceUse:
        measured.append(now_s)
        return ResourceUse(now_s, 0, 0)

    progress = StartProgress(measure, lambda: now_s)
    while now_s < 10 * START_CHECK_S:
        now_s += START_CHECK_S / 10
        progress.check()
    assert len(measured) == 11


def test_the_work_of_real_processes() -> None:
    work = resource_use(os.getpid())
    assert work.cpu_s > 0 and work.rss_bytes > 1 << 20 and work.read_bytes > 0
    assert resource_use(2**22 + 1) == ResourceUse(0.0, 0, 0)
