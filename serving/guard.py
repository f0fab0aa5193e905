"""The process between a server and whoever started it: ends it, whatever happens, without traces.

Reads stdin: ``stop`` ends the server in an orderly way and within a limit, ``kill`` at once, and so
does end of file, or the end of the starter: a server that stops without having been drained tells
requests under way that it failed, a broken connection tells them to come again. Then kills what is
left of the process tree and removes the server's shared memory and temporary folder. So a starter
killed with SIGKILL leaves nothing behind. (The kernel's parent-death signal alone would not do: it
goes by the thread that started a process, and it removes no files.)

Run as ``python -m serving.guard`` with a JSON of :class:`Orders` as its argument, in the server's
environment. Reads the command's secrets, a JSON object, from ``secrets_fd``, as any user of the
machine can read arguments. Writes the server's process id to ``pid_fd``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import psutil

from serving.hidden_arguments import HidingError, fill, start_hidden
from serving.installation import STUB_NAME
from serving.stub_logging import configure_logging

log = logging.getLogger("serving.guard")

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
SHARED_MEMORY = Path("/dev/shm")


class Orders(TypedDict):
    """What to run and what to remove afterwards."""

    command: list[str]
    """Of the server, with ``{name}`` for each secret."""
    shm_prefix: str
    workspace: str
    stop_timeout_s: float
    starter_pid: int
    begun_s: float
    pid_fd: int
    secrets_fd: int


def remove_leftovers(shm_prefix: str, workspace: Path, begun_s: float) -> None:
    """Kills the models' processes that are left of a server that was started at ``begun_s``
    (``time.time()``), and removes the shared memory named ``shm_prefix…`` and its folders; missing
    ones are fine."""
    if not shm_prefix:
        raise ValueError("shm_prefix: must not be empty")
    _kill_orphans(workspace)
    _remove_execution_environment(begun_s)
    shutil.rmtree(state_folder(shm_prefix), ignore_errors=True)
    for path in SHARED_MEMORY.glob(f"{shm_prefix}*"):
        path.unlink(missing_ok=True)
    shutil.rmtree(workspace, ignore_errors=True)


def state_folder(shm_prefix: str) -> Path:
    """Where a server's models leave their signs of life: in memory, so that a full disk does not
    make them look dead."""
    return SHARED_MEMORY / f"{shm_prefix}state"


def _remove_execution_environment(begun_s: float) -> None:
    """Removes the empty folder that the Python backend makes in /tmp at start, for packed Python
    environments that we do not use, and that a killed server leaves behind. What may be another
    server's stays: that one would end badly without it."""
    living = psutil.process_iter(["name", "create_time"])
    others_s = [each.info["create_time"] for each in living if each.info["name"] == "tritonserver"]
    for path in Path("/tmp").glob("python_env_*"):
        with contextlib.suppress(OSError):
            status = path.stat()
            made_s = status.st_mtime
            if status.st_uid != os.getuid() or any(_made_soon(made_s, at_s) for at_s in others_s):
                continue
            if _made_soon(made_s, begun_s):
                path.rmdir()


def _made_soon(made_s: float, after_s: float) -> bool:
    return after_s - 1 <= made_s < after_s + 10


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _start(command: Sequence[str], secrets: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Safe here, where ``preexec_fn`` is not in general: this process has one thread."""
    try:
        return start_hidden(command, secrets, before_exec=_die_with_parent)
    except HidingError as error:
        log.warning("all users of this machine can read the server's admin key: %s", error)
        words = [fill(word, secrets) for word in command]
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)


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


def _kill_orphans(workspace: Path) -> None:
    """Kills what runs out of the folder: models outlive a server that was killed with its guard."""
    stub = str(workspace / "backends" / "python" / STUB_NAME)
    orphans = [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"]]
    orphans = [each for each in orphans if each.info["cmdline"][0] == stub]
    for process in orphans:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(orphans, timeout=2)


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
    """Runs the server until it ends; its exit status is ours."""
    configure_logging()
    orders: Orders = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    allow_many_files()
    try:
        with os.fdopen(orders["secrets_fd"]) as pipe:
            server = _start(orders["command"], json.load(pipe))
        os.write(orders["pid_fd"], f"{server.pid}\n".encode())
        os.close(orders["pid_fd"])
        _watch(server, orders["starter_pid"], orders["stop_timeout_s"])
        status = server.poll()
    finally:
        _kill_children()
        remove_leftovers(orders["shm_prefix"], Path(orders["workspace"]), orders["begun_s"])
    return 1 if status is None else abs(status)


if __name__ == "__main__":
    sys.exit(main())
