"""The cores that networks compute on."""

from __future__ import annotations

import contextlib
import os

import psutil


def physical_cores() -> int:
    """Physical cores that this process may use: the two threads of a core share its arithmetic
    units."""
    allowed = len(os.sched_getaffinity(0))
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


NETWORK_NICENESS = 5
"""Niceness of networks: they compute long on all cores; prepare and the step engine are short."""
PICTURE_NICENESS = 15
"""Niceness of decoding and encoding large pictures: the networks' steps are shorter."""


def lower_priority(niceness: int) -> None:
    """Lowers the priority of this thread and of those that it starts."""
    with contextlib.suppress(OSError):
        os.nice(niceness)
