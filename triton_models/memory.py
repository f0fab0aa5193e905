"""Returns freed memory to the system, so that a process does not grow over hours.

glibc raises its threshold for mapped blocks with every larger block that is freed, up to 32 MiB;
smaller blocks are then in heaps, whose holes stay. With a fixed threshold, large pictures are
mapped and unmapped; holes between small blocks are returned every few seconds. And tritonserver's
400 threads share one heap per core, not eight.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

_LEAST_HEAPS = 2
EVERY_S = 10.0
"""Between two calls of :func:`give_back`: rare enough that its cost, milliseconds and new page
faults, does not matter."""


def environment() -> Mapping[str, str]:
    """glibc's settings for tritonserver and its models; networks in onnxruntime set their own."""
    return {
        "MALLOC_ARENA_MAX": str(max(_LEAST_HEAPS, len(os.sched_getaffinity(0)))),
        "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(4 << 20),
    }


def give_back() -> None:
    """Returns the unused pages of this process's heaps to the system."""
    ctypes.CDLL(None).malloc_trim(0)
