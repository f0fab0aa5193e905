"""Telling which models have given no sign of life for too long: :class:`Silence`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.heart import BEAT_S, ENGINE_MODEL, is_alive, model_of, read_beat, words_of

_MOST_OF_A_LOOK_S = 2 * BEAT_S
_DOOR_TIMES = 3
"""So many times longer a door may not say how it goes while its heart beats: its event loop may
have much to do, and a restart of it loses all requests."""


@dataclass
class _Sign:
    """A file, as it was at the last look."""

    changed_ns: int
    looked_s: float
    age_s: float = 0.0


class Silence:
    """Looks at the signs of life of a server's models, about once a second.

    What is counted is the time between looks in which a file was not touched, and of each no more
    than 2 s: the wall clock may be set, and a machine that stood still leaves everybody silent at
    its first look.

    Args:
        place: the folder of the signs.
        limit_s: after so much silence a model's process hangs.
        clock: seconds.
    """

    def __init__(
        self, place: Path, limit_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._place = place
        self._limit_s = limit_s
        self._clock = clock
        self._signs: dict[Path, _Sign] = {}

    def look(self) -> dict[str, int]:
        """Those that have been silent for too long: process id by instance. Removes the signs of
        processes that have ended."""
        before, self._signs = self._signs, {}
        silent = {}
        for path in sorted(self._place.glob("*.beat")):
            instance, pid = read_beat(path)
            if not is_alive(pid):
                path.unlink(missing_ok=True)  # it was ended, or found dead by others
                continue
            model = model_of(instance)
            words_s = self._age_s(words_of(self._place, model), before)
            if model != ENGINE_MODEL:
                words_s /= _DOOR_TIMES
            if max(self._age_s(path, before), words_s) > self._limit_s:
                silent[instance] = pid
        return silent

    def _age_s(self, path: Path, before: dict[Path, _Sign]) -> float:
        """Seconds without a touch; 0 if there is no such file."""
        try:
            changed_ns = path.stat().st_mtime_ns
        except OSError:
            return 0.0
        now_s = self._clock()
        sign = before.get(path)
        if sign is None or sign.changed_ns != changed_ns:
            sign = _Sign(changed_ns, now_s)
        sign.age_s += min(now_s - sign.looked_s, _MOST_OF_A_LOOK_S)
        sign.looked_s = now_s
        self._signs[path] = sign
        return sign.age_s
