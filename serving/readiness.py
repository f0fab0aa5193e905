"""Readiness by canaries, which are sent after a reload and while the server is idle."""

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
    """Sends canaries in a thread; a context manager.

    A failed canary ends readiness only if the server did not answer other requests meanwhile:
    answers may be slow under load. The next successful canary restores readiness.
    """

    def __init__(self, server: EmbeddedServer, health: Health) -> None:
        self._server = server
        self._health = health
        self._over = threading.Event()
        self._all_asked = threading.Event()
        self._failures = 0
        """Failed canaries in a row."""
        self._failed: ServingError | None = None
        self._thread = threading.Thread(target=self._run, name="canary", daemon=True)

    def __enter__(self) -> Readiness:
        if self._server.canaries:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._all_asked.set()  # wakes the thread
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
        """Sends all canaries after a reload of models; if they succeed, the server is ready.
        Returns at once: a canary may need a model that is loaded next."""
        self._failures, self._failed = 0, None  # the missing models may have been the cause
        self._all_asked.set()
        if not self._thread.is_alive():  # no canaries are configured
            self._health.ready(self._server.pipelines)

    def _run(self) -> None:
        turns = itertools.cycle(self._server.canaries)
        canary = next(turns)
        is_all = False
        while True:
            given_up = self._failed is not None  # until check_all is called
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
        """Sends canaries one after another; returns whether the server is ready."""
        before, was_idle = self._server.activity(), self._server.is_idle()
        # Under load a canary waits like other requests; stalls are found by the monitor.
        limit_s = CANARY_LIMIT_S if was_idle else self._server.options.start_timeout_s
        try:
            taken_s = sum(
                run_canary(self._server.connection, canary, limit_s) for canary in canaries
            )
        except CanaryError as error:
            return not self._over.is_set() and self._fail(error, before, was_idle=was_idle)
        self._failures = 0
        if not self._all_asked.is_set():  # else other models were reloaded meanwhile
            self._health.answered(time.time(), taken_s)
        return True

    def _fail(self, error: CanaryError, before: tuple[int, int], *, was_idle: bool) -> bool:
        """Handles a failed canary; returns whether the server is ready in spite of it."""
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
