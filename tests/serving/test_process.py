"""Processes that end, or are ended."""

from __future__ import annotations

import signal
import subprocess

from serving.process import end_soon
from tests.waiting import PATIENCE_S


def test_a_replaced_process_ends_by_itself_or_is_killed() -> None:
    quick = subprocess.Popen(["sleep", "0.2"])
    lingering = subprocess.Popen(["sleep", "600"])
    end_soon([quick.pid], PATIENCE_S)
    end_soon([lingering.pid], 0.1)
    assert (quick.wait(), lingering.wait()) == (0, -signal.SIGKILL)
