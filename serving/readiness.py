"""Readiness by canaries: tiny requests, after a reload and while the server is otherwise idle."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Sequence

from serving.canary import Canary, run_canary
from serving.errors import CanaryError, ServingError
from serving.health import Health
from serving.server import EmbeddedServer
from serving.times import CANARY_FAILURES, CANARY_INTERVAL_S, CANARY_LIMIT_S, CANARY_RETRY_S

log = logging.getLogger(__name__)


class Readiness:
    """Sends canaries from a thread of its own; a context manager.

    A canary that fails takes readiness away only if the server had nothing else to do meanwhile: an
    answer may be slow under load. The next one that is answered gives readiness back.
    """

    def __init__(self, server: EmbeddedServer, health: Health) -> None:
        self._server = server
        self._health = health
        self._over = threading.Event()
        self._all_asked = threading.Event()
        self._failures = 0
        """In a row."""
        self._failed: ServingError | None = None
        self._thread = threading.Thread(target=self._run, name="canary", daemon=True)

    def __enter__(self) -> Readiness:
        if self._server.canaries:
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
            ServingError: canaries of an idle server failed in a row.
        """
        if self._failed is not None:
            raise self._failed

    def check_all(self) -> None:
        """Sends all canaries now, as models were loaded again; when they are answered, the server
        is ready. Returns at once: an answer may need what is to be loaded again next."""
        self._failures, self._failed = 0, None  # it may have failed for what was missing
        self._all_asked.set()
        if not self._thread.is_alive():  # no canaries are configured
            self._health.ready(self._server.pipelines)

    def _run(self) -> None:
        turns = itertools.cycle(self._server.canaries)
        canary = next(turns)
        is_all = False
        while True:
            given_up = self._failed is not None  # until all are asked for again
            pause_s = CANARY_RETRY_S if self._failures or is_all else CANARY_INTERVAL_S
            is_all |= self._all_asked.wait(None if given_up else pause_s)
            self._all_asked.clear()
            if self._over.is_set():
                return
            if not is_all and not self._server.is_idle():
                continue
            if self._send(self._server.canaries if is_all else [canary]):
                canary = next(turns)
                is_all = False

    def _send(self, canaries: Sequence[Canary]) -> bool:
        """Sends these in turn; whether the server is ready."""
        before, was_idle = self._server.activity(), self._server.is_idle()
        # Under load a canary waits its turn; whether that comes is seen by other signs.
        limit_s = CANARY_LIMIT_S if was_idle else self._server.options.start_timeout_s
        try:
            taken_s = sum(
                run_canary(self._server.connection, canary, limit_s) for canary in canaries
            )
        except CanaryError as error:
            return not self._over.is_set() and self._fail(error, before, was_idle=was_idle)
        self._failures = 0
        if not self._all_asked.is_set():  # other models were loaded again meanwhile
            self._health.answered(time.time(), taken_s)
        return True

    def _fail(self, error: CanaryError, before: tuple[int, int], *, was_idle: bool) -> bool:
        """Judges a canary that failed; whether the server is ready nevertheless."""
        arrived, answered = self._server.activity()
        if error.is_overload or answered > before[1]:
            log.info("%s; the server works on other requests", error)
            self._health.ready(self._server.pipelines)
            return True
        log.warning("%s", error)
        self._health.not_ready(str(error))
        if was_idle and arrived == before[0]:
            self._failures += 1
            if self._failures >= CANARY_FAILURES:
                self._failed = error
        return False
