"""A supervised tritonserver: :class:`EmbeddedServer`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from tritonclient.utils import InferenceServerException

from segs_client.contract import MODEL_NAME, STREAM_MODEL_NAME
from serving.canary import Canary, canaries
from serving.connection import Connection
from serving.credentials import Credentials
from serving.errors import CanaryError, CrashError, ModelsDownError, ServingError, StartError
from serving.launching import launch
from serving.leftovers import Belongings, remove_abandoned
from serving.logs import LogReader
from serving.monitor import ProcessMonitor
from serving.options import ServerOptions
from serving.ports import claim_port, join_address
from serving.preflight import preflight
from serving.process import (
    MemoryUse,
    end_soon,
    is_stopped,
    memory_use,
    model_processes,
    resource_use,
)
from serving.reaper import ending, signal_of
from serving.reference_check import ReferenceCheck, reference_checks
from serving.reloading import load_again
from serving.repositories import descriptors, has_detailer
from serving.start_progress import StartProgress
from serving.starting import answer_canaries
from triton_models.state import (
    ENGINE_MODEL,
    HEARTBEAT_S,
    Drain,
    EngineStatus,
    is_alive,
    model_of,
    order_drain,
    read_engine,
    read_front_ends,
    remove_engine_status,
)

log = logging.getLogger(__name__)

_FOLLOWED_S = 1.5 * HEARTBEAT_S
"""Time until front ends and step engine have read an order and written their status."""
_LOOK_S = 0.1
_REPLACED_S = 1.0
"""Time for a replaced model's other processes to end their work. If the dead process had a request,
Triton keeps them forever; they would be confused with the new ones, which have the same names."""
_READERS = ("prepare", ENGINE_MODEL)
"""Models that read the pipelines' descriptors."""
_CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)
_CLEARED_S = 0.5
"""Time for a reaper to end after its server; it has no exit status before."""
_PORT_TAKEN = "already in use"
_NO_ROOM = "is the disk full or read-only? TMPDIR names the folder for temporary files"


class EmbeddedServer:
    """One tritonserver, from start to stop; a context manager.

    Has the fields of :class:`~serving.options.ServerOptions` as arguments; by default the gRPC port
    is a free one. Several servers can run at once, started from any thread.

    >>> with EmbeddedServer([Path("pipelines")]) as server:
    ...     client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
    """

    def __init__(self, repositories: Iterable[Path | str] = (), **options: Any) -> None:
        folders = tuple(Path(folder) for folder in repositories)
        self.options = ServerOptions(**{"grpc_port": 0, **options, "repositories": folders})
        self.pipelines: tuple[str, ...] = ()
        self.references: tuple[ReferenceCheck, ...] = ()
        """The networks whose results are compared before it is ready."""
        self.canaries: tuple[Canary, ...] = ()
        """The canaries that must succeed before it is ready."""
        self.ports: dict[str, int] = {}
        self.pid = 0
        """Process id of tritonserver itself."""
        self._belongings: Belongings | None = None
        self._reaper: subprocess.Popen[str] | None = None
        self._log: LogReader | None = None
        self._descriptors: dict[Path, bytes] = {}
        """The pipelines' descriptors at its start."""
        self._ensembles: dict[str, tuple[str, str]] = {}
        self._monitor: ProcessMonitor | None = None
        self.credentials = Credentials()
        self._tls: Mapping[str, Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def grpc_url(self) -> str:
        """``host:port`` for a gRPC client on this machine."""
        return self.address("grpc")

    @property
    def log_path(self) -> Path | None:
        """The file of the server's output, if any."""
        return self.options.log_path

    @property
    def connection(self) -> Connection:
        """The connection for calls from this machine, with TLS and API keys."""
        credentials = self.credentials
        headers, parameters = credentials.canary_headers(), credentials.internal_parameters()
        return Connection(self.grpc_url, headers, parameters, self._tls)

    def address(self, protocol: str) -> str:
        """``host:port`` of ``grpc``, ``http`` or ``metrics`` for a client on this machine."""
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        host = local.get(self.options.host, self.options.host)
        return join_address(host, self.ports[protocol])

    def start(self, stop_asked: threading.Event | None = None) -> None:
        """Starts the server and returns when it is ready, networks agree with their
        references, and all canaries have succeeded.

        If tritonserver crashes, it is started once more: version 2.51 may crash if the machine is
        suspended for a second at its start, because it treats its models' processes as dead. The
        same if another process takes its port before it does.

        Raises:
            ServingError: has the problem; or ``stop_asked`` was set meanwhile.
        """
        stop_asked = stop_asked or threading.Event()
        try:
            self._start(stop_asked)
        except CrashError as error:
            if stop_asked.is_set():
                raise
            log.warning("%s\nstarting it once more", error)
            self._reaper, self._log = None, None
            self._ensembles.clear()
            self._start(stop_asked)

    @property
    def state(self) -> Path:
        """The folder of its models' heartbeats, after its start."""
        assert self._belongings is not None
        return self._belongings.state

    def _start(self, stop_asked: threading.Event) -> None:
        options = self.options
        with self._lock:
            if self._reaper is not None:
                raise StartError("this server was started before")
            remove_abandoned()  # before the check of free memory
            self._descriptors = descriptors(options.repositories)
            pipelines, installation = preflight(options)
            self.pipelines = tuple(pipelines)
            for pipeline in pipelines.values():
                self._ensembles.update(pipeline.ensembles)
            if options.canary:
                self.references = reference_checks(options.repositories)
            if options.canary and has_detailer(options.model_repository):
                self.canaries = canaries(pipelines.values())
            self._claim_ports()
            try:
                self._belongings, owner = Belongings.make()
                try:
                    launched = launch(
                        options, installation, self._belongings, self.ports, self.credentials, owner
                    )
                finally:
                    os.close(owner)
            except BaseException as error:
                if self._belongings is not None:
                    self._belongings.remove()
                if isinstance(error, OSError):
                    raise StartError(f"{error}; {_NO_ROOM}") from error
                raise
            self._reaper, self.pid, self._log, self._tls = launched
        try:
            self._wait_ready(stop_asked)
            answer_canaries(self, stop_asked)
        except BaseException as error:
            if isinstance(error, CrashError):
                self.kill()  # a stalled process would delay an orderly stop
            self.stop()
            if isinstance(error, CanaryError) and signal_of(self._reaper.returncode):
                raise self._why_ended() from error
            raise

    def _claim_ports(self) -> None:
        options = self.options
        wanted = {
            "grpc": options.grpc_port,
            "http": options.http_port,
            "metrics": options.metrics_port,
        }
        for protocol, port in wanted.items():
            if port is not None:
                self.ports[protocol] = claim_port(options.host, port, f"--{protocol}-port")

    def _wait_ready(self, stop_asked: threading.Event) -> None:
        assert self._reaper is not None
        assert self._log is not None
        deadline = time.monotonic() + self.options.start_timeout_s
        progress = StartProgress(lambda: resource_use(self.pid))
        with self.connection.open() as client:
            while True:
                if self._reaper.poll() is not None:
                    raise self._why_ended()
                progress.check()
                with contextlib.suppress(InferenceServerException):
                    if client.is_server_ready(client_timeout=1.0):
                        break
                if time.monotonic() > deadline:
                    raise StartError(
                        f"not ready after {self.options.start_timeout_s:g} s; its last lines:\n"
                        + self.tail(20)
                    )
                if stop_asked.wait(0.05):
                    raise StartError("stopped while starting")
        self._log.started.set()
        self._monitor = ProcessMonitor(self.pid, self._reaper.pid, self.state, self._ensembles)

    def _why_ended(self) -> StartError:
        assert self._log is not None
        self._log.join(2.0)
        status = self._require_running().returncode
        by = signal_of(status)
        failures = self._log.failures()
        if failures and by is None:  # after a crash, failures of models are its consequence
            lines = "\n".join(f"  {model}: {why}" for model, why in sorted(failures.items()))
            return StartError(f"tritonserver could not load its models:\n{lines}")
        is_retried = by in _CRASHES or _PORT_TAKEN in self.tail(20)
        kind = CrashError if is_retried else StartError
        return kind(f"{ending(status)} while starting; its last lines:\n{self.tail(20)}")

    def tail(self, lines: int = 50) -> str:
        """The last lines of the server's output."""
        return "" if self._log is None else self._log.tail(lines)

    def rss_bytes(self) -> MemoryUse:
        """Resident memory of the server and all its models, as sums of RSS and of PSS."""
        self._require_running()
        return memory_use(self.pid)

    def check(self) -> None:
        """Checks that the server and every model's process run and do not stall.

        Raises:
            ModelsDownError: processes of models have ended or stall; :meth:`reload` may help.
            ServingError: tritonserver itself has ended, or a network stalls inside it.
        """
        self._require_alive()
        assert self._monitor is not None
        self._monitor.check()

    def _require_alive(self) -> None:
        """
        Raises:
            ServingError: tritonserver has ended.
        """
        reaper = self._require_running()
        if is_alive(self.pid) and reaper.poll() is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            reaper.wait(_CLEARED_S)
        raise ServingError(f"{ending(reaper.returncode)}\nits last lines:\n{self.tail(10)}")

    def wait(self, limit_s: float, stop_asked: threading.Event) -> None:
        """Waits up to ``limit_s`` until one of the server's processes ends."""
        if self._monitor is not None:
            self._monitor.wait(limit_s, stop_asked)

    def must_restart(self) -> bool:
        """Whether it has to be restarted because too many calls were lost with their processes."""
        return self._monitor is not None and self._monitor.must_restart()

    def require_reloadable(self, down: ModelsDownError) -> None:
        """
        Raises:
            ServingError: loading these models again is not enough.
        """
        known, now = self._descriptors, descriptors(self.options.repositories)
        if down.models.isdisjoint(_READERS):  # other models do not depend on new pipelines
            now = {path: content for path, content in now.items() if path in known}
        if now != known:
            raise ServingError(f"{down}; pipelines were built again, which belong together")
        if not down.models.isdisjoint((MODEL_NAME, STREAM_MODEL_NAME)):
            raise ServingError(f"{down}; it held the requests")

    def reload(self, down: ModelsDownError, stop_asked: threading.Event | None = None) -> None:
        """Reloads these models in Triton; requests that wait for them then continue.

        Raises:
            ServingError: as :meth:`require_reloadable`; or a model does not load, or ``stop_asked``
                was set meanwhile.
        """
        self.require_reloadable(down)
        stop_asked = stop_asked or threading.Event()
        reaper = self._require_running()
        before = [
            pid
            for instance, pid in model_processes(reaper.pid).items()
            if model_of(instance) in down.models
        ]
        for pid in down.stalled:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if ENGINE_MODEL in down.models:
            remove_engine_status(self.state)
        timeout_s = self.options.start_timeout_s
        admin = self.credentials.admin_headers()
        pool = ThreadPoolExecutor(1, "loading")
        loaded = pool.submit(load_again, self.connection, sorted(down.models), admin, timeout_s)
        pool.shutdown(wait=False)
        while not wait([loaded], _LOOK_S).done:
            self._require_alive()
            if is_stopped(self.pid):
                raise ServingError("tritonserver stands still while models are loaded")
            if stop_asked.is_set():
                raise ServingError("stopped while models are loaded")
        if loaded.exception() is not None:
            time.sleep(_LOOK_S)  # its connections end slightly before the process
            self._require_alive()
        loaded.result()
        end_soon(before, _REPLACED_S)
        if self._monitor is not None:
            self._monitor.note()

    def engine_state(self) -> EngineStatus | None:
        """The step engine's last status; None if it has written none."""
        return None if self._belongings is None else read_engine(self.state)

    def drain(self, limit_s: float, give_up: threading.Event) -> None:
        """Refuses new requests and waits up to ``limit_s`` until those in flight are done; the
        others then get UNAVAILABLE. ``give_up`` ends the wait."""
        if self._belongings is None or (self.engine_state() is None and not self._under_way()):
            return
        self._order_drain("refuse")
        deadline = time.monotonic() + limit_s
        while not give_up.wait(_FOLLOWED_S):
            left = self._under_way()
            if left == 0 or self._require_running().poll() is not None:
                return
            if time.monotonic() > deadline:
                log.warning("%d requests are not done after %g s", left, limit_s)
                break
        self._order_drain("end")
        give_up.wait(_FOLLOWED_S)

    def _under_way(self) -> int:
        """Requests in flight by the last status of the front ends and of the step engine."""
        engine = self.engine_state()
        pending = sum(each.pending for each in read_front_ends(self.state))
        return max(pending, 0 if engine is None else engine.requests)

    def is_idle(self) -> bool:
        """Whether no requests except canaries are pending."""
        return not any(each.pending for each in read_front_ends(self.state))

    def activity(self) -> tuple[int, int]:
        """The number of requests received since the start, without canaries, and the number that
        the step engine has answered."""
        engine = self.engine_state()
        arrived = sum(each.arrived for each in read_front_ends(self.state))
        return arrived, 0 if engine is None else engine.answered

    def _order_drain(self, order: Drain) -> None:
        try:
            order_drain(self.state, order)
        except OSError as error:
            log.warning("the order to drain cannot be written: %s", error.strerror)

    def _require_running(self) -> subprocess.Popen[str]:
        if self._reaper is None:
            raise ServingError("the server was not started")
        return self._reaper

    def stop(self) -> None:
        """Stops the server within ``stop_timeout_s`` and about 2 s more; a second call does
        nothing."""
        if self._reaper is None:
            return
        self._order("stop")
        try:
            self._reaper.wait(self.options.stop_timeout_s + 4)
        except subprocess.TimeoutExpired:
            log.error("the server's reaper does not answer; killing it")
            self._reaper.kill()
            self._reaper.wait()
        if self._log is not None:
            self._log.join(2.0)
        if self._belongings is not None:
            self._belongings.remove()  # the reaper itself may have been killed

    def kill(self) -> None:
        """Ends the server at once; safe in a signal handler. :meth:`stop` has to follow."""
        if self._reaper is not None:
            self._order("kill")

    def _order(self, word: str) -> None:
        assert self._reaper is not None
        assert self._reaper.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            os.write(self._reaper.stdin.fileno(), f"{word}\n".encode())
