"""The server's health for probes over HTTP and gRPC.

``/health/live`` returns 200 while the supervisor runs. ``/health/ready`` returns 200 while the
server is ready, else 503. Both return the whole state as JSON; ``/metrics`` has its numbers for
Prometheus. ``grpc.health.v1.Health`` returns SERVING or NOT_SERVING likewise. (Triton's own health,
on its own port, stays ready after a model's process has died.)
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from serving import health_metrics
from serving.errors import ServingError
from serving.ports import claim_port, join_address

log = logging.getLogger(__name__)

_PATH = re.compile(r"(?<![\w.:/])/[^\s:;,'\"]+")
_PROBES = 4
"""Concurrent probes."""


class Health:
    """The state, written by the supervisor and read by probes; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Callable[[bool], object]] = []
        self._state: dict[str, Any] = {
            "ready": False,
            "reason": "starting",
            "since": time.time(),
            "pipelines": [],
            "restarts": 0,
            "reloads": 0,
            "last_failure": None,
            "canary": None,
        }

    def ready(self, pipelines: Sequence[str]) -> None:
        """Sets the state to ready."""
        self._change(ready=True, reason=None, pipelines=list(pipelines))

    def not_ready(self, reason: str) -> None:
        """Sets the state to not ready."""
        self._change(ready=False, reason=_public(reason))

    def restarted(self, times: int, reason: str) -> None:
        """Records a restart; ``times``: their number since the start."""
        self._change(
            ready=False, reason="starting again", restarts=times, last_failure=_public(reason)
        )

    def reloading(self, times: int, reason: str) -> None:
        """Records a reload of models; ``times``: their number since the start."""
        self._change(
            ready=False, reason="loading again", reloads=times, last_failure=_public(reason)
        )

    def answered(self, at_s: float, taken_s: float) -> None:
        """Records a successful canary."""
        self._change(ready=True, reason=None, canary={"at": at_s, "seconds": round(taken_s, 3)})

    def state(self) -> dict[str, Any]:
        """A copy of the state."""
        with self._lock:
            return dict(self._state)

    def follow(self, listener: Callable[[bool], object]) -> None:
        """Calls the listener with the readiness now and after each change."""
        with self._lock:
            self._listeners.append(listener)
            listener(self._state["ready"])

    def _change(self, **values: Any) -> None:
        with self._lock:
            if values.get("ready", self._state["ready"]) != self._state["ready"]:
                values["since"] = time.time()
                for listener in self._listeners:
                    listener(values["ready"])
            self._state.update(values)


def _public(reason: str) -> str:
    """The reason for a probe, without lines of the server's output and paths, which are only
    logged."""
    return _PATH.sub("…", reason.partition("\n")[0])


class HealthServer:
    """Serves a :class:`Health` over HTTP; a context manager.

    Raises:
        PortTakenError: the port is in use.
    """

    def __init__(self, health: Health, host: str, port: int) -> None:
        self.port = claim_port(host, port, "--health-port")
        handler = type("Handler", (_Handler,), {"health": health})
        self._server = (_Server6 if ":" in host else _Server)((host, self.port), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="health", daemon=True
        )

    def __enter__(self) -> HealthServer:
        self._thread.start()
        host = str(self._server.server_address[0])
        log.info("health: http://%s/health/ready", join_address(host, self.port))
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class GrpcHealthServer:
    """Serves a :class:`Health` as ``grpc.health.v1.Health``; a context manager.

    Raises:
        PortTakenError: the port is in use.
    """

    def __init__(self, health: Health, host: str, port: int) -> None:
        self.port = claim_port(host, port, "--grpc-health-port")
        self._servicer = HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(_PROBES))
        add_HealthServicer_to_server(self._servicer, self._server)
        self._server.add_insecure_port(join_address(host, self.port))
        health.follow(self._set)

    def _set(self, ready: bool) -> None:
        state = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
        self._servicer.set("", state)

    def __enter__(self) -> GrpcHealthServer:
        self._server.start()
        log.info("health: grpc.health.v1.Health on port %d", self.port)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # idle connections would soon fill the default of 5

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("health probe from %s failed", client_address, exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        # "All addresses" includes both families, as for Triton and gRPC.
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    health: Health
    timeout = 5.0  # for a probe that sends nothing

    def do_GET(self) -> None:
        state = self.health.state()
        if self.path == "/metrics":
            self._answer(200, health_metrics.CONTENT_TYPE, health_metrics.text(state))
            return
        status = {"/health/live": 200, "/health/ready": 200 if state["ready"] else 503}.get(
            self.path, 404
        )
        content = state if status != 404 else {"error": "no such path"}
        self._answer(status, "application/json", json.dumps(content))

    def _answer(self, status: int, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        log.debug("health probe: " + format, *args)


def check_health(url: str, timeout_s: float) -> None:
    """Calls a server's ``/health/ready``.

    Args:
        url: of the health endpoint, e.g. ``http://127.0.0.1:8003``.

    Raises:
        ServingError: it is not ready, with the reason, or not reachable.
    """
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=timeout_s):
            return
    except urllib.error.HTTPError as error:
        try:
            reason = json.loads(error.read())["reason"]
        except (OSError, ValueError, LookupError, TypeError):
            raise ServingError(f"{url}: HTTP {error.code}, not from a health port") from error
        raise ServingError(f"not ready: {reason}") from error
    except (OSError, ValueError) as error:
        raise ServingError(f"{url}: no answer: {error}") from error
