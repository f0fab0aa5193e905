"""The last part of a server's start: references and canaries, while its processes are monitored."""

from __future__ import annotations

import itertools
import logging
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Protocol

from serving.canary import Canary, run_canary
from serving.connection import Connection
from serving.errors import CanaryError, CrashError, ModelsDownError, ServingError, StartError
from serving.options import ServerOptions
from serving.reference_check import ReferenceCheck, run_check
from serving.times import RELOADS

log = logging.getLogger(__name__)

_LOOK_S = 0.1


class StartingServer(Protocol):
    """The used part of :class:`~serving.server.EmbeddedServer`."""

    references: tuple[ReferenceCheck, ...]
    canaries: tuple[Canary, ...]
    options: ServerOptions

    @property
    def connection(self) -> Connection:
        """The connection for calls from this machine."""

    def check(self) -> None:
        """Raises ServingError if a process has ended or stalled."""

    def require_reloadable(self, down: ModelsDownError) -> None:
        """Raises ServingError if these models cannot be loaded again alone."""

    def reload(self, down: ModelsDownError, stop_asked: threading.Event) -> None:
        """Loads these models again."""


def answer_canaries(server: StartingServer, stop_asked: threading.Event) -> None:
    """Checks all references and sends all canaries, one after another; models whose process ends or
    stalls meanwhile are reloaded.

    Raises:
        WrongResultsError: a network's results are not those of its reference.
        CanaryError: a canary failed, or processes ended with canaries repeatedly.
        CrashError: a process ended whose model cannot be reloaded alone.
        ServingError: ``stop_asked`` was set meanwhile.
    """
    pool = ThreadPoolExecutor(1, "canary")
    try:
        for tries in itertools.count(1):
            answered = pool.submit(_send_canaries, server)
            was_repaired = False
            while not wait([answered], _LOOK_S).done:
                if stop_asked.is_set():
                    raise StartError("stopped while starting")
                was_repaired |= _repair(server, stop_asked)
            try:
                answered.result()
            except CanaryError:
                if stop_asked.is_set() or tries > RELOADS:
                    raise
                if not (was_repaired or _repair(server, stop_asked)):
                    raise
            else:
                return
    finally:
        pool.shutdown(wait=False)


def _repair(server: StartingServer, stop_asked: threading.Event) -> bool:
    """Checks all processes; returns whether models were reloaded."""
    try:
        server.check()
    except ModelsDownError as down:
        try:
            server.require_reloadable(down)
            log.error("%s; loading the models again", down)
            server.reload(down, stop_asked)
        except ServingError as error:
            raise CrashError(str(error)) from error
        return True
    except ServingError as error:
        raise CrashError(str(error)) from error
    return False


def _send_canaries(server: StartingServer) -> None:
    for check in server.references:
        error = run_check(server.connection, check, server.options.start_timeout_s)
        log.info("%s agrees with its reference (relative error %.1e)", check, error)
    for canary in server.canaries:
        taken_s = run_canary(server.connection, canary, server.options.start_timeout_s)
        log.info("%s answered in %.2f s", canary, taken_s)
