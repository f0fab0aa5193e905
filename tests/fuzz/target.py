"""The server under attack, the ports beside it, and whether all its processes still live."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.canary import Canary, run_canary
from serving.errors import ServingError
from serving.health import GrpcHealthServer, Health, HealthServer, check_health
from serving.process import MemoryUse, model_processes
from serving.server import EmbeddedServer
from tests.fuzz.calls import Port

log = logging.getLogger(__name__)


class Target:
    """A server with its health ports; a context manager. Started again where it was broken.

    Args:
        server: a running one that is not to be started again; by default one of its own.
        log_path: file that gets the output of its own.
    """

    def __init__(
        self,
        repositories: Iterable[Path],
        pipeline: str,
        server: EmbeddedServer | None = None,
        log_path: Path | None = None,
    ) -> None:
        self._log_path = log_path
        self._repositories = tuple(repositories)
        self._pipeline = pipeline
        self._given = server
        self._stack = ExitStack()
        self._server = server
        self._processes: dict[str, int] = {}
        self._health_ports: dict[str, int] = {}
        self.restarts = 0

    def __enter__(self) -> Target:
        health = Health()
        http = self._stack.enter_context(HealthServer(health, "127.0.0.1", 0))
        grpc_health = self._stack.enter_context(GrpcHealthServer(health, "127.0.0.1", 0))
        health.ready([self._pipeline])
        self._health_ports = {"health": http.port, "grpc_health": grpc_health.port}
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._given is None:
            self.server.stop()
        self._stack.close()

    @property
    def server(self) -> EmbeddedServer:
        """The running server."""
        assert self._server is not None
        return self._server

    def address(self, port: Port) -> tuple[str, int]:
        """Host and port number."""
        number = self.server.ports["grpc"] if port == "grpc" else self._health_ports[port]
        return "127.0.0.1", number

    def memory(self) -> MemoryUse:
        """Of the server and its models."""
        return self.server.rss_bytes()

    def wounds(self) -> list[str]:
        """What has died or does not answer; empty where all is well."""
        found = [name for name, pid in self._processes.items() if not _lives(pid)]
        try:
            self.server.check()
        except ServingError as error:
            found.append(str(error))
        host, port = self.address("health")
        try:
            check_health(f"http://{host}:{port}", timeout_s=5)
        except ServingError as error:
            found.append(f"health port: {error}")
        host, port = self.address("grpc_health")
        with grpc.insecure_channel(f"{host}:{port}") as channel:
            try:
                asked = health_pb2.HealthCheckRequest()
                health_pb2_grpc.HealthStub(channel).Check(asked, timeout=5)
            except grpc.RpcError as error:
                found.append(f"gRPC health port: {error.code()}")
        return found

    def canary(self) -> float:
        """Seconds that the canary took.

        Raises:
            ServingError: it was not answered.
        """
        return run_canary(self.server.connection, Canary(self._pipeline), 30)

    def restart(self) -> None:
        """A new server, as the old one is broken."""
        if self._given is not None:
            raise ServingError("the server that was given is broken")
        self.restarts += 1
        begun = time.monotonic()
        self.server.kill()
        self.server.stop()
        self._start()
        log.warning("the server was started again in %.0f s", time.monotonic() - begun)

    def _start(self) -> None:
        if self._given is None:
            self._server = EmbeddedServer(self._repositories, log_path=self._log_path)
            self._server.start()
        self._processes = {"tritonserver": self.server.pid, **model_processes(self.server.pid)}


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
