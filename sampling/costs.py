"""The cost of a batch: measured seconds by network and size, interpolated for other sizes.

A network's time is a curve over the size of its batch: on a CPU nearly a line through 0, on a GPU
flat until the batch fills it. No constants are configured; the curve has the latest measurements.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections import deque

_BUCKETS_PER_DOUBLING = 4
"""Sizes within 19 % share their measurements."""
_KEPT = 9
"""Measurements kept of a size; their median is used, so that one slow batch has no effect."""
_LEAST_S = 1e-3
"""Faster batches count as this: sending one takes about as long."""
_REACH = 4.0
"""The curve is used up to this factor beyond the measured sizes."""


class _Curve:
    """Median seconds over size, of one network."""

    def __init__(self) -> None:
        self._times: dict[int, deque[float]] = {}
        self._sizes: dict[int, deque[int]] = {}
        self._points: list[tuple[float, float]] = []

    def observe(self, size: int, seconds: float) -> None:
        bucket = round(math.log2(size) * _BUCKETS_PER_DOUBLING)
        self._times.setdefault(bucket, deque(maxlen=_KEPT)).append(max(seconds, _LEAST_S))
        self._sizes.setdefault(bucket, deque(maxlen=_KEPT)).append(size)
        self._points = [
            (statistics.fmean(self._sizes[each]), statistics.median(self._times[each]))
            for each in sorted(self._times)
        ]

    def at(self, size: int) -> float | None:
        """Linear between measured sizes; beyond them a line through 0."""
        if not self._points:
            return None
        index = bisect.bisect(self._points, (size, math.inf))
        if 0 < index < len(self._points):
            (low, fast), (high, slow) = self._points[index - 1 : index + 1]
            return fast + (slow - fast) * (size - low) / (high - low)
        nearest, seconds = self._points[max(index - 1, 0)]
        return seconds * size / nearest

    def reaches(self, size: int) -> bool:
        return (
            bool(self._points)
            and self._points[0][0] / _REACH <= size <= self._points[-1][0] * _REACH
        )

    @property
    def best_rate(self) -> float:
        """Seconds per unit of size in the most economical batch."""
        return min(seconds / size for size, seconds in self._points)


class CostModel:
    """The curves of all networks. A size counts the elements of a batch's first input."""

    def __init__(self) -> None:
        self._curves: dict[str, _Curve] = {}

    def observe(self, network: str, size: int, seconds: float) -> None:
        """Adds a measured batch."""
        self._curves.setdefault(network, _Curve()).observe(size, seconds)

    def batch_s(self, network: str, size: int) -> float | None:
        """Seconds of a batch of any size; None for a network without measurements."""
        curve = self._curves.get(network)
        return None if curve is None else curve.at(size)

    def known_batch_s(self, network: str, size: int) -> float | None:
        """As :meth:`batch_s`; None also if the size is far from all measured sizes."""
        curve = self._curves.get(network)
        return curve.at(size) if curve is not None and curve.reaches(size) else None

    def shared_s(self, network: str, size: int) -> float | None:
        """Seconds that rows of this size add to the most economical batch."""
        curve = self._curves.get(network)
        return curve.best_rate * size if curve is not None and curve.reaches(size) else None
