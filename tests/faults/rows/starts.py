"""Processes that are killed or stopped while the server starts: after the gRPC port accepts, and
before the first canary is answered."""

from __future__ import annotations

import os
import signal
import socket
import time

from benchmarks.supervised import PIPELINE, START_S, PromiseBroken, Supervised
from tests.faults.bench import Bench
from tests.faults.calls import infer, send, small
from tests.faults.row import Check, Rows, allowed_s, require

ROWS = Rows()

_ANSWERED_S = 10.0
_STARTS_LONG = 1.5
"""Times the start, where that is more: the loss of a front end takes another start."""
_STARTS = 4
"""Tries to hit the window, which is as short as a canary."""
_VICTIMS = {
    "front-end": "segs_detailer",
    "prepare": "prepare",
    "sample": "sample",
    "composite": "composite",
    "unet": f"{PIPELINE}_unet",
}
_CAUSES = {signal.SIGKILL: "processes have ended", signal.SIGSTOP: "processes are stopped"}
"""What the log says."""
_SHORT = {"start-front-end-killed", "start-prepare-stopped"}


def _wait_port(server: Supervised) -> float:
    """Seconds until the gRPC port accepts."""
    process = server.spawn()
    begun = time.monotonic()
    deadline = begun + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", server.ports["grpc"]), timeout=0.2).close()
        except OSError:
            time.sleep(0.005)
        else:
            return time.monotonic() - begun
    raise PromiseBroken(f"the gRPC port never accepted: {server.log_tail()}")


def _hit(server: Supervised, role: str, number: signal.Signals) -> tuple[str, float] | None:
    """Starts the server and sends the signal; the instance, and how long a request may take then.
    None if the first canary was answered before."""
    limit_s = allowed_s(max(_ANSWERED_S, _STARTS_LONG * _wait_port(server)))
    found = {name: pid for name, pid in server.stubs().items() if name.startswith(f"{role}_0")}
    require(bool(found), f"no process {role} among {sorted(server.stubs())}")
    instance, pid = min(found.items())
    os.kill(pid, number)
    return None if server.has_started() else (instance, limit_s)


def _wait_answer(server: Supervised, limit_s: float) -> float:
    """Seconds until a request is answered.

    Raises:
        PromiseBroken: not in time.
    """
    begun, got = time.monotonic(), ""
    while (left_s := limit_s - (time.monotonic() - begun)) > 0:
        answer = send(server, infer(small()), timeout_s=left_s)
        if answer.code == "OK":
            return time.monotonic() - begun
        got = f"{answer.code}: {answer.text}"
        time.sleep(0.1)
    raise PromiseBroken(f"no answer within {limit_s:.1f} s: {got}\n{server.log_tail()}")


def _named(server: Supervised, instance: str, cause: str) -> str:
    """The line of the log that names cause and process."""
    for line in server.log_path.read_text(errors="replace").splitlines():
        if cause in line and instance in line:
            return line.partition(": ")[2] or line
    raise PromiseBroken(f"no line says that {instance} {cause}: {server.log_tail(30)}")


def _checking(role: str, number: signal.Signals) -> Check:
    def check(bench: Bench) -> str:
        with bench.own() as server:
            for _ in range(_STARTS):
                hit = _hit(server, role, number)
                if hit is not None:
                    break
                server.stop()
            require(hit is not None, f"the server was ready before the signal, {_STARTS} times")
            assert hit is not None
            instance, limit_s = hit
            answered_s = _wait_answer(server, limit_s)
            return f"answered after {answered_s:.1f} s; {_named(server, instance, _CAUSES[number])}"

    return check


for _name, _role in _VICTIMS.items():
    for _number, _word in ((signal.SIGKILL, "killed"), (signal.SIGSTOP, "stopped")):
        ROWS.add(
            _full := f"start-{_name}-{_word}",
            f"{_number.name} to `{_role}` after the gRPC port accepts and before the first canary "
            "is answered",
            f"Requests are answered within {_ANSWERED_S:.0f} s of it, or {_STARTS_LONG:g} times a "
            "start where that is more; a line of the log names the cause and the process",
            short=_full in _SHORT,
        )(_checking(_role, _number))
