"""The server's counters and observations, in plain Python: adding a value takes less than a
microsecond; the publisher reads them from another thread.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

Labels = tuple[str, ...]
"""Values of a metric's labels, in its order; never free text of a client, to keep them few."""

_MOST_WAITING = 1 << 16
"""Observations kept until they are taken; beyond, the oldest are dropped."""


class Counter:
    """Monotonic sums by label values; thread-safe.

    Args:
        known: label values that start with 0.
    """

    def __init__(self, known: Collection[Labels] = ()) -> None:
        self._sums: dict[Labels, float] = dict.fromkeys(known, 0.0)
        self._lock = threading.Lock()

    def add(self, *labels: str, amount: float = 1.0) -> None:
        with self._lock:
            self._sums[labels] = self._sums.get(labels, 0.0) + amount

    def values(self) -> Mapping[Labels, float]:
        """A copy of the sums."""
        with self._lock:
            return self._sums.copy()


class Observations:
    """Measured values with label values, kept until taken. Any thread may add, one may take.

    Values are dropped until ``wanted`` is set.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._waiting: deque[tuple[float, Labels]] = deque(maxlen=_MOST_WAITING)

    def add(self, value: float, *labels: str) -> None:
        if self.wanted:
            self._waiting.append((value, labels))

    def take(self) -> list[tuple[float, Labels]]:
        """The values since the last call, oldest first."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]


@dataclass
class EngineStats:
    """Counters of the step engine since its start."""

    batch_rows: Counter = field(default_factory=Counter)
    """Rows by network and shape."""
    batch_fill: Observations = field(default_factory=Observations)
    """Rows of a batch over the network's limit, 0…1; by network and shape."""
    batch_requests: Observations = field(default_factory=Observations)
    """Requests with calls in a batch, by network."""
    batch_failures: Counter = field(default_factory=Counter)
    """Failed batches by network."""
    step_seconds: Observations = field(default_factory=Observations)
    """Seconds of a batch, by network."""

    def began(
        self, network: str, row_shape: tuple[int, ...], rows: int, requests: int, limit: int
    ) -> None:
        """Counts a batch.

        Args:
            limit: the network's limit of rows of this shape.
        """
        shape = shape_label(row_shape)
        self.batch_rows.add(network, shape, amount=rows)
        self.batch_fill.add(rows / max(limit, rows), network, shape)
        self.batch_requests.add(requests, network)


@dataclass
class DetailStats:
    """Counters of the SEGs' work since the start."""

    stage_seconds: Observations = field(default_factory=Observations)
    """Seconds of the stages of a SEG's pass, waiting included."""
    crops: Counter = field(default_factory=lambda: Counter([("crop", "hit"), ("crop", "miss")]))
    """Uses of crops' latents: already encoded in the same request, or not."""


@functools.lru_cache(1024)
def shape_label(row_shape: tuple[int, ...]) -> str:
    """A label for the shape of a network's rows, one of few: the smallest square with a side of a
    power of two and at least as many cells; for rows that are no pictures, their length.

    Example:
        >>> shape_label((4, 19, 24)), shape_label((77,))
        ('32x32', '77')
    """
    if len(row_shape) < 2:
        return str(math.prod(row_shape))
    side = 1 << math.ceil(math.log2(max(1, math.prod(row_shape[-2:]))) / 2)
    return f"{side}x{side}"
