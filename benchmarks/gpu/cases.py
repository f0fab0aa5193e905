"""What a part of the benchmark consists of: cases, each of which becomes a row of its table."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

if TYPE_CHECKING:  # the part `rate` needs nothing but torch
    from pipelines.descriptor import Precision

T = TypeVar("T")

Row = dict[str, Any]
"""Columns and their values, as JSON has them."""

_MOST_RUNS = 50


class NotRun(Exception):  # noqa: N818 - named for what happened
    """Something is missing on this machine; the message says what."""


@dataclass(frozen=True)
class Options:
    """What is measured, and for how long."""

    device: torch.device
    precision: Precision
    sizes: tuple[str, ...]
    """Of the networks; the first one's pipeline is run whole."""
    batches: tuple[int, ...]
    """Rows."""
    seconds: float
    """Of each figure's repeats, at most."""
    rate_side: int
    steps: int
    callers: tuple[int, ...]
    every: int
    """Which golden cases are run: every such one."""
    compile: bool
    folder: Path
    """For pipelines and engines, which are large."""

    @property
    def is_rehearsal(self) -> bool:
        """Whether only tiny networks are run, which take no time to make."""
        return set(self.sizes) == {"tiny"}


@dataclass(frozen=True)
class Case:
    """One row to be measured."""

    named: Row
    """The columns by which it differs from the others of its part."""
    run: Callable[[float], Row]
    """Measures the other columns, within about so many seconds.

    Raises:
        NotRun: it cannot be measured here.
    """
    least_s: float = 0.0
    """It is not begun with less time; what it is known to take."""


class Latest(Generic[T]):
    """The last thing made. Another one is made only after it is freed, as both may not fit into
    the GPU's memory."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._made: list[T] = []

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made for this key, or is made now."""
        if not self._made or key != self._key:
            self.free()
            self._made.append(make())
            self._key = key
        return self._made[0]

    def free(self) -> None:
        """Lets go of it."""
        self._made.clear()
        free_memory()


def free_memory() -> None:
    """Frees the GPU's memory of what is used no more, such as graphs."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def timed(run: Callable[[], object], seconds: float) -> float:
    """The median time of a run in seconds, after three that are not counted: the first chooses
    kernels, the second captures a graph."""
    for _ in range(3):
        run()
    times: list[float] = []
    while not times or (sum(times) < seconds and len(times) < _MOST_RUNS):
        start_s = time.perf_counter()
        run()
        times.append(time.perf_counter() - start_s)
    return statistics.median(times)


def tflops(operations: float, seconds: float) -> float:
    """TFLOP/s, to three digits."""
    return float(f"{operations / seconds / 1e12:.3g}")


def left_of(seconds: float, begun_s: float) -> float:
    """Of so many seconds, what is left after a beginning at ``begun_s`` (``time.monotonic()``): a
    third at least, as what was made first is made for later cases too."""
    return max(seconds - (time.monotonic() - begun_s), seconds / 3)
