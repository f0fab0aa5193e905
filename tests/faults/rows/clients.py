"""Clients that go away, are in a hurry, are many, or are slow."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from benchmarks.supervised import PIPELINE, Supervised
from segs_client import DeadlineExceeded
from serving.options import REPOSITORY_ROOT
from tests.faults import calls, http2
from tests.faults.bench import Bench
from tests.faults.row import Rows, allowed_s, require
from tests.faults.traffic import Ask, require_all_answered

ROWS = Rows()

_ENDLESS_STEPS = 10_000
_TAKEN_S = 60.0
"""A client in a process of its own takes long to start on a busy machine."""
_DROPPED_S = 5.0
"""The engine drops a request within a step, and writes its status every second."""
_MANY = 1000
_PROBE = (Ask(41, 20), Ask(42, 20))
"""What other clients send meanwhile."""


def _wait_requests(server: Supervised, wanted: Callable[[int], bool], limit_s: float) -> float:
    begun = time.monotonic()
    count = -1
    while time.monotonic() - begun < allowed_s(limit_s):
        state = server.engine()
        count = -1 if state is None else state.requests
        if wanted(count):
            return time.monotonic() - begun
        time.sleep(0.02)
    require(False, f"the engine has {count} requests after {limit_s:g} s")
    raise AssertionError


def _wait_taken(server: Supervised) -> None:
    _wait_requests(server, lambda count: count > 0, _TAKEN_S)


def _wait_dropped(server: Supervised) -> str:
    seconds = _wait_requests(server, lambda count: count == 0, _DROPPED_S)
    return f"the engine was without it {seconds:.1f} s later"


@ROWS.add(
    "client-killed",
    "SIGKILL to a client whose request is being sampled",
    "The engine drops it within a step; its status is written every second",
    short=True,
)
def _client_killed(bench: Bench) -> str:
    server = bench.shared()
    folder = bench.new_folder()
    picture = folder / "picture.png"
    picture.write_bytes(Ask(1).picture())
    command = [sys.executable, "-m", "segs_client.cli", str(picture), "--url", server.url]
    command += ["--pipeline", PIPELINE, "--box", "8,8,56,56", "--steps", str(_ENDLESS_STEPS)]
    command += ["--guide-size", "64", "--max-size", "64", "-o", str(folder / "out.png")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY_ROOT / "client")}
    client = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        _wait_taken(server)
    finally:
        client.kill()
        client.wait()
    return _wait_dropped(server)


@ROWS.add(
    "client-cancels",
    "A client cancels its call while it is being sampled",
    "The engine drops it within a step; its status is written every second",
)
def _client_cancels(bench: Bench) -> str:
    server = bench.shared()
    with calls.open_stub(server) as stub:
        call = stub.ModelInfer.future(calls.infer(calls.small(steps=_ENDLESS_STEPS)))
        _wait_taken(server)
        call.cancel()
        return _wait_dropped(server)


@ROWS.add(
    "deadline-1-ms",
    "Deadlines of 1 ms: gRPC's, and Triton's own time-out without gRPC's",
    "DEADLINE_EXCEEDED at once, and no work is done",
    short=True,
)
def _deadline_1_ms(bench: Bench) -> str:
    server = bench.shared()
    begun = time.monotonic()
    try:
        Ask(1, timeout_s=0.001).send(server.url)
        require(False, "it was answered")
    except DeadlineExceeded:
        first_s = time.monotonic() - begun
    request = calls.infer(calls.small(steps=_ENDLESS_STEPS))
    request.parameters["timeout"].int64_param = 1000
    answer = calls.send(server, request)
    require(answer.code == "DEADLINE_EXCEEDED", f"{answer.code}: {answer.text}")
    dropped = _wait_dropped(server)
    return f"refused after {first_s * 1e3:.0f} and {answer.seconds * 1e3:.0f} ms; {dropped}"


@ROWS.add(
    "deadline-while-sampling",
    "A deadline of 2 s for a minute's work, of 3 requests at once",
    "DEADLINE_EXCEEDED in time, and the engine drops them within a step",
)
def _deadline_while_sampling(bench: Bench) -> str:
    server = bench.shared()
    asks = [Ask(number, _ENDLESS_STEPS, timeout_s=2.0) for number in (51, 52, 53)]
    traffic = bench.traffic(server, asks)
    _wait_taken(server)
    outcomes = traffic.outcomes()
    for outcome in outcomes:
        require(outcome.text.startswith("DEADLINE_EXCEEDED"), f"{outcome.ending}: {outcome.text}")
    late_s = max(outcome.seconds for outcome in outcomes) - 2.0
    return f"refused {max(0.0, late_s) * 1e3:.0f} ms late at most; {_wait_dropped(server)}"


@contextmanager
def _connections(port: int, opening: bytes) -> Iterator[list[socket.socket]]:
    """A thousand of them, each of which sends this and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * _MANY)), hard))
    with ExitStack() as stack:
        sockets = []
        for _ in range(_MANY):
            each = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            each.sendall(opening)
            sockets.append(each)
        yield sockets


def _answered_among(bench: Bench, server: Supervised, port: int, opening: bytes) -> str:
    bench.learn(server, _PROBE)
    with _connections(port, opening):
        require(server.is_ready(), "not ready")
        outcomes = bench.traffic(server, _PROBE).outcomes()
        seen = require_all_answered(outcomes, retries=False)
        slowest_s = max(outcome.seconds for outcome in outcomes)
    return f"{seen} meanwhile, the slower after {slowest_s:.1f} s"


@ROWS.add(
    "half-open-connections",
    f"{_MANY} TCP connections to the gRPC port that send half of HTTP/2's preface; the server was "
    "started with room for 1024 open files",
    "Others are answered meanwhile",
)
def _half_open(bench: Bench) -> str:
    with bench.own(prefix=("prlimit", "--nofile=1024:20000")) as server:
        server.start()
        opening = http2.PREFACE[: len(http2.PREFACE) // 2]
        return _answered_among(bench, server, server.ports["grpc"], opening)


@ROWS.add(
    "idle-connections",
    f"{_MANY} HTTP/2 connections that are open and send no request",
    "Others are answered meanwhile",
)
def _idle(bench: Bench) -> str:
    server = bench.shared()
    opening = http2.PREFACE + http2.settings()
    return _answered_among(bench, server, server.ports["grpc"], opening)


@ROWS.add(
    "idle-health-connections",
    f"{_MANY} connections to the health port that send half a request",
    "Probes are answered meanwhile, and so are requests",
)
def _idle_health(bench: Bench) -> str:
    server = bench.shared()
    return _answered_among(bench, server, server.ports["health"], b"GET /health/re")


@ROWS.add(
    "garbage-to-health",
    "Garbage, a line of 1 MiB, and HTTP/2 to the health port; garbage to gRPC's health port",
    "Probes are answered",
    short=True,
)
def _garbage_to_health(bench: Bench) -> str:
    server = bench.shared()
    garbage = np.random.default_rng(0).bytes(4096)
    parts = [
        garbage,
        b"GET /" + b"x" * 2**20,
        http2.PREFACE,
        b"\r\n" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
    ]
    for port in (server.ports["health"], server.ports["grpc-health"]):
        for part in parts:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                try:
                    connection.sendall(part)
                    connection.recv(4096)
                except (ConnectionError, TimeoutError):
                    continue
    status, _ = server.health()
    require(status == 200, f"the probe got {status}")
    command = [sys.executable, "-m", "serving", "healthcheck"]
    command += ["--url", f"http://127.0.0.1:{server.ports['health']}"]
    checked = subprocess.run(command, cwd=REPOSITORY_ROOT, check=False, capture_output=True)
    require(checked.returncode == 0, checked.stderr.decode())
    return "200 after it; `serving healthcheck` exits with 0"


@ROWS.add(
    "slow-reader",
    "A client that reads its picture of 12 MB at a byte per second",
    "Others are answered meanwhile; it ends with its connection",
)
def _slow_reader(bench: Bench) -> str:
    server = bench.shared()
    bench.learn(server, _PROBE)
    side_px = 2048
    picture = Ask(1, side_px=side_px).picture(plain=True)
    body = calls.small(image={"encoding": "file"}, output={"image": "raw"})
    with http2.Connection(server.ports["grpc"], initial_window=1) as connection:
        connection.send_call(1, calls.infer(body, picture))
        read = _read_slowly(connection, 4.0)
        outcomes = bench.traffic(server, _PROBE).outcomes()
        seen = require_all_answered(outcomes, retries=False)
        read += _read_slowly(connection, 3.0)
    require(1 <= read < 20, f"{read} bytes were read")
    return f"{read} bytes in 7 s; {seen} meanwhile"


def _read_slowly(connection: http2.Connection, seconds: float) -> int:
    read = 0
    for _ in range(int(seconds)):
        for kind, stream, payload in connection.read(1.0):
            if kind == http2.DATA and stream == 1 and payload:
                read += len(payload)
        if read:
            connection.grant(1, 1)
    return read


@ROWS.add(
    "slow-writer",
    "Clients that write a gRPC message of 64 MiB and an HTTP request at 10 bytes per second",
    "Others are answered meanwhile; they end with their connections",
)
def _slow_writer(bench: Bench) -> str:
    server = bench.shared()
    bench.learn(server, _PROBE)
    over = threading.Event()
    claim = b"\x00" + (64 << 20).to_bytes(4, "big")
    with (
        http2.Connection(server.ports["grpc"]) as grpc_writer,
        socket.create_connection(("127.0.0.1", server.ports["http"]), timeout=5) as http_writer,
    ):
        grpc_writer.send(http2.headers(1), http2.frame(http2.DATA, 0, 1, claim))
        http_writer.sendall(
            b"POST /v2/models/segs_detailer/infer HTTP/1.1\r\nContent-Length: 9999\r\n"
        )

        def write() -> None:
            while not over.wait(0.1):
                grpc_writer.send(http2.frame(http2.DATA, 0, 1, b"\x00"))
                http_writer.sendall(b"a")

        writer = threading.Thread(target=write)
        writer.start()
        try:
            outcomes = bench.traffic(server, _PROBE).outcomes()
        finally:
            over.set()
            writer.join()
    return f"{require_all_answered(outcomes, retries=False)} meanwhile"
