"""Runs and supervises a server until a signal: ``python -m serving serve``."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

from serving.errors import ModelsDownError, ServingError
from serving.health import GrpcHealthServer, Health, HealthServer
from serving.options import ServerOptions
from serving.readiness import Readiness
from serving.reaper import allow_many_files
from serving.server import EmbeddedServer
from serving.times import CHECK_S, HEALTHY_S, LOST_DRAIN_S, MOST_PAUSE_S, RELOAD_WINDOW_S, RELOADS
from triton_models.state import write_whole

log = logging.getLogger(__name__)

_MOST_DOUBLINGS = 10


def supervise(options: ServerOptions, ready_file: Path | None = None) -> None:
    """Runs a server until SIGINT, SIGTERM or SIGHUP; a second signal kills it at once. After the
    first, requests in flight may end, up to a limit, and new ones are refused as UNAVAILABLE.

    Triton does not replace a model's process that dies or stalls, so the model is reloaded. If that
    is not enough, the server is restarted: at once if it was up for a while, else after pauses that
    double up to a minute.

    Raises:
        ServingError: the first start failed.
    """
    allow_many_files()
    with ExitStack() as stack:
        health = Health()
        if options.health_port is not None:
            stack.enter_context(HealthServer(health, options.host, options.health_port))
        if options.grpc_health_port is not None:
            stack.enter_context(GrpcHealthServer(health, options.host, options.grpc_health_port))
        _Supervisor(options, ready_file, health).run()


@dataclass
class _Supervisor:
    options: ServerOptions
    ready_file: Path | None
    health: Health
    _stop_asked: threading.Event = field(default_factory=threading.Event)
    _kill_asked: threading.Event = field(default_factory=threading.Event)
    _current: list[EmbeddedServer] = field(default_factory=list)
    _restarts: int = 0
    _in_row: int = 0
    """Restarts since the server last stayed up for a while."""
    _ready_s: float = math.inf
    """Since when the server is up."""
    _reloads: int = 0
    _reloaded_s: dict[str, deque[float]] = field(default_factory=dict)
    """Times of each model's last reloads."""

    def run(self) -> None:
        with _signals(self._on_signal):
            while True:
                server = EmbeddedServer(**vars(self.options))
                self._current[:] = [server]
                died: ServingError | None = None
                try:
                    died = self._run(server)
                    if died is not None:
                        server.kill()  # a stalled process would delay an orderly stop
                finally:
                    self.health.not_ready("the server is stopped" if died is None else str(died))
                    self._update_ready_file(None)
                    server.stop()
                if died is None:
                    log.info("stopped")
                    return
                self._keep_addresses(server)
                if self._pause(died):
                    return

    def _on_signal(self) -> None:
        if self._stop_asked.is_set():
            self._kill_asked.set()
            for server in self._current:
                server.kill()
        self._stop_asked.set()

    def _pause(self, died: ServingError) -> bool:
        """Waits before a restart; returns whether a stop was requested meanwhile."""
        if time.monotonic() - self._ready_s >= HEALTHY_S:
            self._in_row = 0
        pause_s = min(2.0 ** min(self._in_row, _MOST_DOUBLINGS) - 1, MOST_PAUSE_S)
        self._in_row += 1
        self._restarts += 1
        self._reloaded_s.clear()
        self.health.restarted(self._restarts, str(died))
        log.error(
            "%s; starting the server again in %.0f s, for the %d. time",
            died,
            pause_s,
            self._restarts,
        )
        return self._stop_asked.wait(pause_s)

    def _keep_addresses(self, server: EmbeddedServer) -> None:
        """Keeps the ports for the next start, also those chosen by the system."""
        self.options = replace(
            self.options,
            grpc_port=server.ports.get("grpc", self.options.grpc_port),
            http_port=server.ports.get("http", self.options.http_port),
            metrics_port=server.ports.get("metrics", self.options.metrics_port),
        )

    def _run(self, server: EmbeddedServer) -> ServingError | None:
        """Starts and monitors the server; returns its error, or None if a stop was requested."""
        self._ready_s = math.inf  # not yet
        try:
            server.start(self._stop_asked)
        except ServingError as error:
            if self._stop_asked.is_set():
                return None
            if not self._restarts:
                raise
            return error
        addresses = ", ".join(f"{name} {server.address(name)}" for name in server.ports)
        log.info("ready: %s; pipelines: %s", addresses, ", ".join(server.pipelines) or "none")
        self._update_ready_file(server)
        self._ready_s = time.monotonic()
        self.health.ready(server.pipelines)
        with Readiness(server, self.health) as readiness:
            while not self._stop_asked.is_set():
                server.wait(CHECK_S, self._stop_asked)
                try:
                    self._check(server, readiness)
                    readiness.check()
                except ServingError as error:
                    if not self._stop_asked.is_set():
                        return error
        self.health.not_ready("stopping")
        server.drain(self.options.drain_timeout_s, self._kill_asked)
        return None

    def _update_ready_file(self, server: EmbeddedServer | None) -> None:
        """Writes the ready file, or removes it if this process has written it. Errors, such as a
        full disk, are logged."""
        if self.ready_file is None:
            return
        try:
            if server is not None:
                _write_ready_file(self.ready_file, server)
            elif _wrote(self.ready_file):
                self.ready_file.unlink(missing_ok=True)
        except OSError as error:
            log.error("%s: %s", self.ready_file, error.strerror)

    def _check(self, server: EmbeddedServer, readiness: Readiness) -> None:
        """Checks all processes, and reloads models if that is enough."""
        try:
            server.check()
        except ModelsDownError as down:
            self._reload(server, down)
            readiness.check_all()
        if server.must_restart():
            server.drain(min(self.options.drain_timeout_s, LOST_DRAIN_S), self._stop_asked)
            raise ServingError("too many calls were lost with their models' processes")

    def _reload(self, server: EmbeddedServer, down: ModelsDownError) -> None:
        server.require_reloadable(down)
        begun_s = time.monotonic()
        for model in down.models:
            times = self._reloaded_s.setdefault(model, deque(maxlen=RELOADS))
            if len(times) == RELOADS and begun_s - times[0] < RELOAD_WINDOW_S:
                raise down
            times.append(begun_s)
        self._reloads += 1
        self.health.reloading(self._reloads, str(down))
        log.error("%s; loading the models again", down)
        server.reload(down, self._stop_asked)
        log.info("loaded again within %.1f s", time.monotonic() - begun_s)


def _write_ready_file(path: Path, server: EmbeddedServer) -> None:
    content = {
        "pid": os.getpid(),
        "server_pid": server.pid,
        "host": server.options.host,
        **{f"{protocol}_port": port for protocol, port in server.ports.items()},
        "pipelines": list(server.pipelines),
    }
    write_whole(path, json.dumps(content) + "\n")


def _wrote(path: Path) -> bool:
    """Whether this process has written the ready file."""
    try:
        return bool(json.loads(path.read_text())["pid"] == os.getpid())
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return False


@contextmanager
def _signals(handler: Callable[[], None]) -> Iterator[None]:
    """A context in which ``handler`` is called for each signal in a separate thread: a signal may
    arrive while the main thread holds a lock that the handler needs."""
    caught: SimpleQueue[int | None] = SimpleQueue()  # safe in a signal handler

    def handle(number: int, frame: FrameType | None) -> None:
        caught.put(number)

    def attend() -> None:
        while caught.get() is not None:
            handler()

    thread = threading.Thread(target=attend, name="signals", daemon=True)
    thread.start()
    numbers = {signal.SIGINT, signal.SIGTERM}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        numbers.add(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
        caught.put(None)
        thread.join()
