"""A batch under way, as the step engine tells it; nothing here takes long to import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flight:
    """A batch at its network: since when (``time.monotonic()``, one clock for all processes of a
    machine), and how long it should take; None if nothing like it was measured."""

    network: str
    rows: int
    since_s: float
    expected_s: float | None
