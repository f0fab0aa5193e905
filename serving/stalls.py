"""Telling which processes stall: whose main loop has not moved for a stated time."""

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
    """A heartbeat file, as it was at the last look."""

    changed_ns: int
    looked_s: float
    age_s: float = 0.0


class StallDetector:
    """Looks at the heartbeats of a server's models, about once a second.

    What counts is the time between looks in which a file was not touched, and of each no more than
    2 s: the wall clock may be set, and after a pause of the whole machine every file is old at the
    first look.

    Args:
        place: the folder of heartbeats.
        limit_s: a process without one for so long stalls.
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
        """Those that stall: process id by instance. Removes the files of processes that have
        ended."""
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
        """Seconds without a touch; 0 if there is no such file."""
        try:
            changed_ns = path.stat().st_mtime_ns
        except OSError:
            return 0.0
        now_s = self._clock()
        seen = before.get(path)
        if seen is None or seen.changed_ns != changed_ns:
            seen = _Heartbeat(changed_ns, now_s)
        seen.age_s += min(now_s - seen.looked_s, _MOST_OF_A_LOOK_S)
        seen.looked_s = now_s
        self._heartbeats[path] = seen
        return seen.age_s


def late_networks(
    engine: EngineStatus, now_s: float, least_s: float, not_before_s: float = 0.0
) -> list[str]:
    """The networks whose batch takes many times longer than measured.

    Args:
        now_s: ``time.monotonic()``.
        least_s: what a batch may take however fast it should be.
        not_before_s: when a model was loaded again last; batches began again then.
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
