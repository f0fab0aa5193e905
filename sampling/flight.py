"""A batch in flight, as the step engine reports it; imports nothing slow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flight:
    """A batch that a network runs: ``since_s`` is its start (``time.monotonic()``, one clock for
    all processes of a machine), ``expected_s`` its duration by similar batches, None without."""

    network: str
    rows: int
    since_s: float
    expected_s: float | None
