"""What can go wrong before or while perf_analyzer runs."""

from __future__ import annotations


class PerfError(Exception):
    """A load test cannot be made; the message says what to do about it."""
