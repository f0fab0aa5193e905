"""Which proxy: what clients see through Envoy, through nginx, and without either.

    python -m benchmarks.proxies [--proxies none,envoy,nginx] [--seconds 10]

Three small gRPC servers whose calls take 20 to 60 ms, and 16 clients, each with its next call as
soon as it has an answer. First all is well; then one server refuses as UNAVAILABLE, as one that is
full or stopping; then that one is killed. Envoy runs with ``deploy/proxy/envoy.yaml``, nginx (which
has to be installed) with its best for gRPC: least connections, next server on errors. Without a
proxy each client calls one server, for what a proxy adds.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from benchmarks.cluster.proxy import Backend, Proxy
from benchmarks.machine import describe
from serving.health import GrpcHealthServer, Health
from serving.ports import claim_port

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_CLIENTS = 16
_BODY = b"x" * 100_000
_LEAST_S, _MOST_S = 0.02, 0.06
_NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_max_body_size 0; client_body_buffer_size 64m; keepalive_requests 1000000;
  upstream servers {{ least_conn; keepalive 32; {servers} }}
  server {{
    listen 127.0.0.1:{port} http2; http2_max_concurrent_streams 1000;
    location / {{
      grpc_pass grpc://servers; grpc_read_timeout 3600s; grpc_send_timeout 3600s;
      grpc_next_upstream error timeout http_502 http_503 non_idempotent;
      grpc_next_upstream_tries 5;
    }}
  }}
}}
"""


class _Servant(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers after a while, or refuses."""

    def __init__(self, refuses: Event, calls: Any) -> None:
        self._refuses, self._calls = refuses, calls

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if self._refuses.is_set():
            context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")
        time.sleep(random.uniform(_LEAST_S, _MOST_S))
        with self._calls.get_lock():
            self._calls.value += 1
        return b""


def _serve(port: int, health_port: int, refuses: Event, calls: Any) -> None:
    server = grpc.server(ThreadPoolExecutor(2 * _CLIENTS))
    server.add_generic_rpc_handlers((_Servant(refuses, calls),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    health = Health()
    with GrpcHealthServer(health, "127.0.0.1", health_port):
        health.ready(["x"])
        server.start()
        while not refuses.wait(0.05):
            pass
        health.not_ready("stopping")
        server.wait_for_termination()


@dataclass
class Servers:
    """Three of them, in processes of their own."""

    backends: list[Backend] = field(default_factory=list)
    refuses: list[Event] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    processes: list[Any] = field(default_factory=list)

    def start(self, count: int = 3) -> None:
        """Starts them and waits until they answer."""
        fresh = multiprocessing.get_context("spawn")
        for _ in range(count):
            ports = [claim_port("127.0.0.1", 0, "") for _ in range(2)]
            self.backends.append(Backend(*ports))
            self.refuses.append(fresh.Event())
            self.calls.append(fresh.Value("i", 0))
            arguments = (*ports, self.refuses[-1], self.calls[-1])
            self.processes.append(fresh.Process(target=_serve, args=arguments, daemon=True))
            self.processes[-1].start()
        for backend in self.backends:
            with grpc.insecure_channel(f"127.0.0.1:{backend.grpc_port}") as channel:
                grpc.channel_ready_future(channel).result(60)

    def stop(self) -> None:
        """Kills all."""
        for process in self.processes:
            process.kill()
            process.join()


@dataclass
class Seen:
    """What clients saw in one phase."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0


class Clients:
    """Call without pause; what they see goes to ``seen``."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.seen = Seen()
        self._urls = urls
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(_CLIENTS)

    def __enter__(self) -> Clients:
        for index in range(_CLIENTS):
            self._pool.submit(self._call, self._urls[index % len(self._urls)])
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()

    def _call(self, url: str) -> None:
        # Each a connection of its own, as clients in processes of their own have.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(url, options=options) as channel:
            call = channel.unary_unary(METHOD)
            while not self._over.is_set():
                seen, begun_s = self.seen, time.monotonic()
                try:
                    call(_BODY, timeout=30)
                    seen.seconds.append(time.monotonic() - begun_s)
                except grpc.RpcError:
                    seen.failed += 1
                    time.sleep(_LEAST_S)


@contextlib.contextmanager
def _envoy(backends: Sequence[Backend], folder: Path) -> Iterator[tuple[list[str], int]]:
    with Proxy(backends, folder) as proxy:
        yield [proxy.url], proxy.pid


@contextlib.contextmanager
def _nginx(backends: Sequence[Backend], folder: Path) -> Iterator[tuple[list[str], int]]:
    binary = shutil.which("nginx")
    if binary is None:
        raise SystemExit("nginx is not installed")
    port = claim_port("127.0.0.1", 0, "")
    servers = " ".join(
        f"server 127.0.0.1:{each.grpc_port} max_fails=2 fail_timeout=2s;" for each in backends
    )
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port, servers=servers))
    process = subprocess.Popen([binary, "-p", str(folder), "-c", str(config)])
    try:
        yield [f"127.0.0.1:{port}"], process.pid
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _none(backends: Sequence[Backend], folder: Path) -> Iterator[tuple[list[str], int]]:
    yield [f"127.0.0.1:{each.grpc_port}" for each in backends], 0


PROXIES: dict[str, Callable[[Sequence[Backend], Path], Any]] = {
    "none": _none,
    "envoy": _envoy,
    "nginx": _nginx,
}


def measure(name: str, seconds: float) -> list[str]:
    """One row of the table."""
    servers = Servers()
    with (
        tempfile.TemporaryDirectory(prefix="segs-proxies-") as folder,
        contextlib.ExitStack() as end,
    ):
        end.callback(servers.stop)
        servers.start()
        urls, pid = end.enter_context(PROXIES[name](servers.backends, Path(folder)))
        time.sleep(3)  # until health is known
        clients = end.enter_context(Clients(urls))
        time.sleep(1)
        clients.seen, before = Seen(), _cpu_s(pid)
        counts = [each.value for each in servers.calls]
        time.sleep(seconds)
        well, clients.seen = clients.seen, Seen()
        shares = np.array([each.value for each in servers.calls]) - counts
        cpu_ms = (_cpu_s(pid) - before) / max(len(well.seconds), 1) * 1e3
        servers.refuses[0].set()
        time.sleep(seconds)
        refused, clients.seen = clients.seen, Seen()
        servers.processes[0].kill()
        time.sleep(seconds)
        killed = clients.seen
    return [
        name,
        f"{len(well.seconds) / seconds:.0f}",
        *(f"{np.percentile(well.seconds, percent) * 1e3:.1f}" for percent in (50, 99)),
        f"{np.abs(shares / shares.mean() - 1).max():.1%}",
        f"{cpu_ms:.2f}" if pid else "",
        *(
            f"{each.failed} of {each.failed + len(each.seconds)}"
            for each in (well, refused, killed)
        ),
    ]


def _cpu_s(pid: int) -> float:
    """Of a process and its children; 0 for none."""
    if not pid:
        return 0.0
    process = psutil.Process(pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.proxies", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--proxies", default=",".join(PROXIES))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase")
    given = parser.parse_args(argv)
    from benchmarks.bench import markdown  # the servers' processes have no use for torch

    head = ["proxy", "calls/s", "p50, ms", "p99, ms", "farthest from the mean", "CPU, ms a call"]
    head += ["failed, all well", "failed, one refuses", "failed, it is killed"]
    rows = [measure(name, given.seconds) for name in given.proxies.split(",")]
    sys.stdout.write(f"{describe()}\n\n{markdown(head, rows)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
