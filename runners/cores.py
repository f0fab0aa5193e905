"""The cores that networks compute on."""

from __future__ import annotations

import contextlib
import os

import psutil

_NICENESS = 5


def physical_cores() -> int:
    """Those this process may use: a core's two threads share its arithmetic units."""
    allowed = len(os.sched_getaffinity(0))
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def lower_priority() -> None:
    """Lowers the priority of this thread and of those that it starts: a network computes long on
    all cores, while preparing, stepping and refusing are short."""
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
