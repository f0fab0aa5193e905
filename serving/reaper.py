"""The reaper: the process between a server and its starter, which ends the server and clears up.

Reads stdin: ``stop`` ends the server in an orderly way and within a limit, ``kill`` at once. End of
file and the end of the starter also end it at once: a server that stops without draining answers
requests in flight with an error, while clients repeat them after a broken connection. Then the
reaper kills the rest of the process tree and removes the server's shared memory and temporary
folder, so that a starter killed with SIGKILL leaves nothing. (The kernel's parent-death signal is
not enough: it depends on the thread that started a process, and it removes no files.)

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
"""The exit status after a signal is this plus the signal's number, as in shells."""


class Orders(TypedDict):
    """The command to run and the resources to remove afterwards."""

    command: list[str]
    belongings: dict[str, Any]
    """Fields of :class:`~serving.leftovers.Belongings`. Only this process has their locked file
    open, until it ends."""
    stop_timeout_s: float
    starter_pid: int
    pid_fd: int


def ending(status: int | None) -> str:
    """The server's end by its reaper's exit status; None: the reaper still runs."""
    if status is None:
        return "tritonserver has ended"
    if status < 0:
        return f"tritonserver's reaper was ended by {signal.Signals(-status).name}"
    by = signal_of(status)
    how = f"ended with status {status}" if by is None else f"was ended by {by.name}"
    return f"tritonserver {how}"


def signal_of(status: int) -> signal.Signals | None:
    """The signal that ended the server, by its reaper's exit status; None: no signal."""
    number = status - _BY_SIGNAL
    return signal.Signals(number) if number in set(signal.Signals) else None


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_children() -> None:
    """Kills all descendants, also orphaned ones, which this process adopts."""
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
    # If the starter has ended already, its end of stdin is closed.
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
    """Raises the limit of open files of this process and its children: each connection needs one,
    and the usual limit is 1024."""
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
        # Safe only because this process has one thread.
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
