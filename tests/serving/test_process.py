"""Processes that end, or are ended."""

from __future__ import annotations

import signal
import subprocess
import time

from serving.process import Deaths, end_soon


def test_each_death_is_reported_at_once_and_once() -> None:
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    deaths = Deaths([each.pid for each in processes])
    try:
        assert not deaths.wait(0.0)
        processes[0].kill()
        assert deaths.wait(5.0)
        assert not deaths.wait(0.05)
        processes[1].kill()
        assert deaths.wait(5.0)
        assert not deaths.wait(0.0)
    finally:
        deaths.close()
        for each in processes:
            each.kill()
            each.wait()


def test_a_replaced_process_ends_by_itself_or_is_killed() -> None:
    quick = subprocess.Popen(["sleep", "0.2"])
    lingering = subprocess.Popen(["sleep", "60"])
    begun_s = time.monotonic()
    end_soon([quick.pid, lingering.pid], 1.0)
    assert time.monotonic() - begun_s < 3
    assert (quick.wait(), lingering.wait()) == (0, -signal.SIGKILL)
