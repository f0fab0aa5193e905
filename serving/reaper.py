"""The reaper: the process between a server and its starter, which ends the server and clears up.

Reads stdin: ``stop`` ends the server in an orderly way and within a limit, ``kill`` at once, and so
does end of file, or the end of the starter: a server that stops without having been drained answers
requests in flight with an error, while a broken connection has clients send them again. Then kills
what is left of the process tree and removes the server's shared memory and temporary folder. So a
starter killed with SIGKILL leaves nothing behind. (The kernel's parent-death signal alone would not
do: it goes by the thread that started a process, and it removes no files.)

Run as ``python -m serving.reaper`` with a JSON of :class:`Orders` as its argument, in the server's
environment. Writes the server's process id to ``pid_fd``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from typing import Any, TypedDict

import psutil

from serving.leftovers import Belongings
from triton_models.stub_logging import configure_logging

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_BY_SIGNAL = 128
"""Plus its number is the exit status where a signal has ended the server, as shells have it."""


class Orders(TypedDict):
    """What to run and what to remove afterwards."""

    command: list[str]
    belongings: dict[str, Any]
    """Of :class:`~serving.leftovers.Belongings`. Their locked file is open in this process, and in
    no other, until it ends."""
    stop_timeout_s: float
    starter_pid: int
    pid_fd: int


def ending(status: int | None) -> str:
    """How a server ended whose reaper has this exit status; None: it has not cleared away yet."""
    if status is None:
        return "tritonserver has ended"
    if status < 0:
        return f"tritonserver's reaper was ended by {signal.Signals(-status).name}"
    by = signal_of(status)
    how = f"ended with status {status}" if by is None else f"was ended by {by.name}"
    return f"tritonserver {how}"


def signal_of(status: int) -> signal.Signals | None:
    """The signal that ended a server whose reaper has this exit status; None if none did."""
    number = status - _BY_SIGNAL
    return signal.Signals(number) if number in set(signal.Signals) else None


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_children() -> None:
    """Kills all descendants; orphaned ones are among them, as this process adopts them."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        children = psutil.Process().children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not children:
            return
        time.sleep(0.02)


def _watch(server: subprocess.Popen[bytes], starter_pid: int, stop_timeout_s: float) -> None:
    """Returns when the server has ended, or must be killed."""
    server_fd = os.pidfd_open(server.pid)
    order_fd = sys.stdin.fileno()
    watched = {server_fd, order_fd}
    # Where the starter has gone already, its end of stdin has too.
    with contextlib.suppress(ProcessLookupError):
        watched.add(os.pidfd_open(starter_pid))
    deadline: float | None = None
    while True:
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(watched, [], [], left_s)
        if not ready or server_fd in ready:
            return
        order = os.read(order_fd, 64) if order_fd in ready else b""
        if not order or b"kill" in order:
            return
        if deadline is None:
            deadline = time.monotonic() + stop_timeout_s
            server.terminate()


def allow_many_files() -> None:
    """Raises the number of files that this process and those that it starts may have open at once:
    each connection is one, and 1024, as most systems have it, are soon there."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> int:
    """Runs the server until it ends; :func:`ending` reads its exit status."""
    configure_logging()
    orders: Orders = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    allow_many_files()
    try:
        # Safe here, where it is not in general: this process has one thread.
        server = subprocess.Popen(
            orders["command"], stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent
        )
        os.write(orders["pid_fd"], f"{server.pid}\n".encode())
        os.close(orders["pid_fd"])
        _watch(server, orders["starter_pid"], orders["stop_timeout_s"])
        status = server.poll()
    finally:
        _kill_children()
        Belongings(**orders["belongings"]).remove()
    if status is None:
        return 1
    return status if status >= 0 else _BY_SIGNAL - status


if __name__ == "__main__":
    sys.exit(main())
