"""The canary that goes on singing: a tiny request every few seconds while nobody else asks."""

from __future__ import annotations

import itertools
import logging
import threading
import time

from serving.canary import Song, run_canary
from serving.errors import CanaryError, ServingError
from serving.health import Health
from serving.server import EmbeddedServer

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
"""Between two canaries; requests that were answered meanwhile make one needless."""
AGAIN_S = 2.5
"""After one that failed, which by then is under way no more, also by the engine's words."""
_IDLE_LIMIT_S = 10.0
"""For the answer where nothing else is under way."""
_BUSY_LIMIT_S = 600.0
"""For the answer behind others' work; whether that goes on is seen by other signs."""
_FAILURES = 2
"""In a row, then the server is given up."""


class Singer:
    """Asks for a tiny picture, of each pipeline and ControlNet in turn, from a thread of its own; a
    context manager. Readiness follows: the first failure takes it away, the next answer gives it
    back."""

    def __init__(self, server: EmbeddedServer, health: Health) -> None:
        self._server = server
        self._health = health
        self._over = threading.Event()
        self._all_asked = threading.Event()
        self._failures = 0
        """In a row."""
        self._failed: ServingError | None = None
        self._thread = threading.Thread(target=self._run, name="canary", daemon=True)

    def __enter__(self) -> Singer:
        if self._server.songs:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._all_asked.set()  # which it waits for
        if self._thread.is_alive():
            self._thread.join(2.0)

    def check(self) -> None:
        """
        Raises:
            ServingError: canaries failed in a row.
        """
        if self._failed is not None:
            raise self._failed

    def sing_all(self) -> None:
        """Has all songs sung now, for models that were loaded again: when they are answered, the
        server is ready. Returns at once: an answer may need what is to be loaded again next."""
        self._failures, self._failed = 0, None  # it may have failed for what was missing
        self._all_asked.set()
        if not self._thread.is_alive():  # nobody is asked for canaries
            self._health.ready(self._server.pipelines)

    def _run(self) -> None:
        answered = self._answered()
        turns = itertools.cycle(self._server.songs)
        song = next(turns)
        sing_all = False
        while True:
            pause_s = AGAIN_S if self._failures else INTERVAL_S
            given_up = self._failed is not None  # until all are asked for again
            sing_all |= self._all_asked.wait(None if given_up else pause_s)
            self._all_asked.clear()
            if self._over.is_set():
                return
            before, answered = answered, self._answered()
            if answered > before and self._failures == 0 and not sing_all:
                continue
            try:
                taken_s = sum(map(self._sing, self._server.songs if sing_all else [song]))
            except CanaryError as error:
                self._fail(error)
                continue  # with the same song: what it needs may be missing for it alone
            if self._over.is_set():
                return
            self._failures = 0
            answered = self._answered()
            song = next(turns)
            sing_all = False
            if not self._all_asked.is_set():  # something else was loaded again meanwhile
                self._health.sang(time.time(), taken_s)

    def _fail(self, error: CanaryError) -> None:
        if self._over.is_set():
            return
        self._failures += 1
        log.warning("%s", error)
        self._health.not_ready(str(error))
        if self._failures >= _FAILURES:
            self._failed = error

    def _sing(self, song: Song) -> float:
        """Seconds until the answer."""
        busy = self._is_busy()
        limit_s = _BUSY_LIMIT_S if busy else _IDLE_LIMIT_S
        # Who is refused where nothing is under way never gets in: a door may be full of what it
        # cannot end.
        return run_canary(self._server.connection, song, limit_s, self._over, refused_is_fine=busy)

    def _answered(self) -> int:
        state = self._server.engine_state()
        return 0 if state is None else state.answered

    def _is_busy(self) -> bool:
        state = self._server.engine_state()
        return state is not None and state.requests > 0
