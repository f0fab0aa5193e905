"""Detects stalled processes: their main loop has not run for a given time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.times import BATCH_SLOWER, FIRST_BATCH_S
from triton_models.state import HEARTBEAT_S, EngineStatus, is_alive, parse_heartbeat

_MOST_OF_A_LOOK_S = 2 * HEARTBEAT_S


@dataclass
class _Heartbeat:
    """A heartbeat file at the last check."""

    changed_ns: int
    looked_s: float
    age_s: float = 0.0


class StallDetector:
    """Checks the heartbeats of a server's models, about once a second.

    The age of a heartbeat is the sum of the times between checks without a change, each at most
    2 s: the wall clock may be set, and after a suspension of the machine all files are old.

    Args:
        place: the folder of heartbeats.
        limit_s: a process without a heartbeat for this time stalls.
        clock: seconds.
    """

    def __init__(
        self, place: Path, limit_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._place = place
        self._limit_s = limit_s
        self._clock = clock
        self._heartbeats: dict[Path, _Heartbeat] = {}

    def look(self) -> dict[str, int]:
        """The stalled processes: process id by instance. Removes the files of ended processes."""
        before, self._heartbeats = self._heartbeats, {}
        stalled = {}
        for path in sorted(self._place.glob("*.beat")):
            instance, pid = parse_heartbeat(path)
            if not is_alive(pid):
                path.unlink(missing_ok=True)
            elif self._age_s(path, before) > self._limit_s:
                stalled[instance] = pid
        return stalled

    def _age_s(self, path: Path, before: dict[Path, _Heartbeat]) -> float:
        """Seconds without a change; 0 if there is no such file."""
        try:
            changed_ns = path.stat().st_mtime_ns
        except OSError:
            return 0.0
        now_s = self._clock()
        last = before.get(path)
        if last is None or last.changed_ns != changed_ns:
            last = _Heartbeat(changed_ns, now_s)
        last.age_s += min(now_s - last.looked_s, _MOST_OF_A_LOOK_S)
        last.looked_s = now_s
        self._heartbeats[path] = last
        return last.age_s


def late_networks(
    engine: EngineStatus, now_s: float, least_s: float, not_before_s: float = 0.0
) -> list[str]:
    """The networks with a batch that takes many times longer than measured.

    Args:
        now_s: ``time.monotonic()``.
        least_s: allowed for any batch.
        not_before_s: the last reload of a model; batches started again then.
    """
    if not engine.flights:
        return []
    expected = [flight.expected_s for flight in engine.flights]
    known_s = sum(each for each in expected if each is not None)
    allowed_s = max(least_s, BATCH_SLOWER * known_s)
    if None in expected:
        allowed_s = max(allowed_s, FIRST_BATCH_S)
    return [
        each.network
        for each in engine.flights
        if now_s - max(each.since_s, not_before_s) > allowed_s
    ]
