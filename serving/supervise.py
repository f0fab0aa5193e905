"""Keeping a server up until it is asked to stop: what ``python -m serving serve`` does."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from serving.errors import ServingError
from serving.options import ServerOptions
from serving.server import EmbeddedServer

log = logging.getLogger(__name__)

_MAX_RESTARTS = 3
_RESTART_WINDOW_S = 600.0
_CHECK_INTERVAL_S = 1.0


def supervise(options: ServerOptions, ready_file: Path | None = None) -> None:
    """Runs a server until SIGINT or SIGTERM; a second signal kills it at once.

    A model whose process dies stays dead inside Triton, so the whole server is started again, at
    most 3 times in 10 minutes.

    Raises:
        ServingError: it did not start, or died too often.
    """
    stop_asked = threading.Event()
    current: list[EmbeddedServer] = []

    def on_signal() -> None:
        if stop_asked.is_set():
            for server in current:
                server.kill()
        stop_asked.set()

    restarts: deque[float] = deque(maxlen=_MAX_RESTARTS)
    with _signals(on_signal):
        while True:
            server = EmbeddedServer(**vars(options))
            current[:] = [server]
            try:
                died = _run(server, stop_asked, ready_file)
            finally:
                if ready_file is not None:
                    ready_file.unlink(missing_ok=True)
                server.stop()
            if died is None:
                log.info("stopped")
                return
            now = time.monotonic()
            if len(restarts) == _MAX_RESTARTS and now - restarts[0] < _RESTART_WINDOW_S:
                raise ServingError(f"{died}; that was the {_MAX_RESTARTS + 1}th time, giving up")
            restarts.append(now)
            log.error("%s; starting the server again", died)
            # The same addresses as before, also where the system chose them.
            options = replace(
                options,
                grpc_port=server.ports["grpc"],
                http_port=server.ports.get("http"),
                metrics_port=server.ports.get("metrics"),
            )


def _run(
    server: EmbeddedServer, stop_asked: threading.Event, ready_file: Path | None
) -> ServingError | None:
    """Starts the server and watches it; returns what died, or None if a stop was asked for."""
    try:
        server.start(stop_asked)
    except ServingError:
        if stop_asked.is_set():
            return None
        raise
    addresses = ", ".join(f"{name} {server.address(name)}" for name in server.ports)
    log.info("ready: %s; pipelines: %s", addresses, ", ".join(server.pipelines) or "none")
    if ready_file is not None:
        _write_ready_file(ready_file, server)
    while not stop_asked.wait(_CHECK_INTERVAL_S):
        try:
            server.check()
        except ServingError as error:
            return error
    return None


def _write_ready_file(path: Path, server: EmbeddedServer) -> None:
    content = {
        "pid": os.getpid(),
        "server_pid": server.pid,
        "host": server.options.host,
        **{f"{protocol}_port": port for protocol, port in server.ports.items()},
        "pipelines": list(server.pipelines),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content) + "\n")
    temporary.replace(path)


@contextmanager
def _signals(handler: Callable[[], None]) -> Iterator[None]:
    def handle(number: int, frame: FrameType | None) -> None:
        handler()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
