"""Processes that end, or are ended."""

from __future__ import annotations

import signal
import subprocess
import time

from serving.process import end_soon


def test_a_replaced_process_ends_by_itself_or_is_killed() -> None:
    quick = subprocess.Popen(["sleep", "0.2"])
    lingering = subprocess.Popen(["sleep", "60"])
    begun_s = time.monotonic()
    end_soon([quick.pid, lingering.pid], 1.0)
    assert time.monotonic() - begun_s < 3
    assert (quick.wait(), lingering.wait()) == (0, -signal.SIGKILL)
