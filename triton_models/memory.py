"""Memory that was freed goes back to the system, so that a process holds after hours what it held
after minutes.

glibc raises the size from which a block is mapped by itself with every larger one that is freed, up
to 32 MiB; smaller ones then come out of heaps, whose holes stay. With a fixed size large pictures
are mapped and unmapped; the holes between small blocks are given back every few seconds. And
tritonserver's 400 threads share as many heaps as there are cores, not eight times as many.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

_LEAST_HEAPS = 2
EVERY_S = 10.0
"""Between two calls of :func:`give_back`: rare enough to cost nothing, also where each takes
milliseconds and what was given back has to be fetched again."""


def environment() -> Mapping[str, str]:
    """glibc's settings for tritonserver and its models; networks in onnxruntime choose their own
    sizes."""
    return {
        "MALLOC_ARENA_MAX": str(max(_LEAST_HEAPS, len(os.sched_getaffinity(0)))),
        "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(4 << 20),
    }


def give_back() -> None:
    """Gives back the pages of this process's heaps that hold nothing."""
    ctypes.CDLL(None).malloc_trim(0)
