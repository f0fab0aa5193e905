"""Whether something takes little computing, on a fast machine as on a slow or busy one."""

from __future__ import annotations

import time
from collections.abc import Callable


def is_cheap(work: Callable[[], object], most: float) -> bool:
    """Whether the work takes less CPU time than ``most`` loops over 100,000 numbers, measured
    beside it; one try of three is enough, as others use the machine too."""
    return any(_cpu_s(work) < most * _cpu_s(_loop) for _ in range(3))


def _cpu_s(work: Callable[[], object]) -> float:
    begun_s = time.thread_time()
    work()
    return time.thread_time() - begun_s


def _loop() -> int:
    return sum(number * number for number in range(100_000))
