"""What the server counts about its work, in plain Python: adding costs less than a microsecond and
waits for nobody; whoever publishes the numbers reads them from another thread.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

Labels = tuple[str, ...]
"""Values of a metric's labels, in its order. Few of them: never anything that a client made up."""

_MOST_WAITING = 1 << 16
"""Values that wait to be taken; then the oldest are lost."""


class Counter:
    """Sums that only grow, by label values. Any thread may add and read.

    Args:
        known: label values that are there from the start, with 0.
    """

    def __init__(self, known: Collection[Labels] = ()) -> None:
        self._sums: dict[Labels, float] = dict.fromkeys(known, 0.0)
        self._lock = threading.Lock()

    def add(self, *labels: str, amount: float = 1.0) -> None:
        """Adds to the sum of these labels."""
        with self._lock:
            self._sums[labels] = self._sums.get(labels, 0.0) + amount

    def values(self) -> Mapping[Labels, float]:
        """A copy."""
        with self._lock:
            return self._sums.copy()


class Observations:
    """Measured values by label values, each until it is taken. Any thread may add, one takes.

    Nothing is kept before ``wanted`` is set.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._waiting: deque[tuple[float, Labels]] = deque(maxlen=_MOST_WAITING)

    def add(self, value: float, *labels: str) -> None:
        """Keeps a value."""
        if self.wanted:
            self._waiting.append((value, labels))

    def take(self) -> list[tuple[float, Labels]]:
        """All that came since the last time, the oldest first."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]


@dataclass
class EngineStats:
    """What the step engine has done since its start."""

    batch_rows: Counter = field(default_factory=Counter)
    """By network and shape."""
    batch_fill: Observations = field(default_factory=Observations)
    """Rows of a batch to those that its network takes, 0…1; by network and shape."""
    batch_requests: Observations = field(default_factory=Observations)
    """Requests with calls in a batch, by network."""
    batch_failures: Counter = field(default_factory=Counter)
    """Batches that failed, by network."""
    step_seconds: Observations = field(default_factory=Observations)
    """What a batch took, by network."""

    def began(
        self, network: str, row_shape: tuple[int, ...], rows: int, requests: int, limit: int
    ) -> None:
        """Takes in a batch.

        Args:
            limit: rows that the network takes of that shape.
        """
        shape = shape_label(row_shape)
        self.batch_rows.add(network, shape, amount=rows)
        self.batch_fill.add(rows / max(limit, rows), network, shape)
        self.batch_requests.add(requests, network)


@dataclass
class DetailStats:
    """What became of the SEGs' work since the start."""

    stage_seconds: Observations = field(default_factory=Observations)
    """Of a pass of a SEG: ``encode``, ``sample``, ``decode``, waiting included."""
    crops: Counter = field(default_factory=lambda: Counter([("crop", "hit"), ("crop", "miss")]))
    """Crops' latents that were asked for: there already in the same request, or not."""


@functools.lru_cache(1024)
def shape_label(row_shape: tuple[int, ...]) -> str:
    """A few names for all shapes of a network's rows: the least square with a power of two for a
    side that has as many cells; where a row is no picture, its length.

    Example:
        >>> shape_label((4, 19, 24)), shape_label((77,))
        ('32x32', '77')
    """
    if len(row_shape) < 2:
        return str(math.prod(row_shape))
    side = 1 << math.ceil(math.log2(max(1, math.prod(row_shape[-2:]))) / 2)
    return f"{side}x{side}"
