"""Reads from the operating system: processes, memory and CPU time of a running server."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psutil

from serving.installation import STUB_NAME
from triton_models.state import is_alive


class MemoryUse(NamedTuple):
    """Resident memory of a process tree. PSS counts shared pages once, RSS in every process."""

    rss_bytes: int
    pss_bytes: int


class ResourceUse(NamedTuple):
    """What a process tree has used so far; ``rss_bytes`` now."""

    cpu_s: float
    rss_bytes: int
    read_bytes: int


def process_tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def resource_use(pid: int) -> ResourceUse:
    """Sums over a process and its descendants, without those that end meanwhile."""
    cpu_s, rss_bytes, read_bytes = 0.0, 0, 0
    tree: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        tree = process_tree(pid)
    for process in tree:
        with contextlib.suppress(psutil.Error):
            times, read = process.cpu_times(), process.io_counters().read_chars
            cpu_s += times.user + times.system
            rss_bytes += process.memory_info().rss
            read_bytes += read
    return ResourceUse(cpu_s, rss_bytes, read_bytes)


def memory_use(pid: int) -> MemoryUse:
    """Sums the memory of a process and its descendants, without those that end meanwhile."""
    rss_bytes = pss_bytes = 0
    for process in process_tree(pid):
        with contextlib.suppress(psutil.Error, OSError):
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
            rss_bytes += int(fields["Rss"].split()[0]) * 1024
            pss_bytes += int(fields["Pss"].split()[0]) * 1024
    return MemoryUse(rss_bytes, pss_bytes)


def model_processes(pid: int) -> dict[str, int]:
    """The running processes of Python models below ``pid``: process id by instance name. Empty if
    ``pid`` has ended."""
    found: dict[str, int] = {}
    tree: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = process_tree(pid)
    for process in tree[1:]:
        with contextlib.suppress(psutil.Error):
            arguments = process.cmdline()
            # An ending process may have incomplete arguments.
            if len(arguments) > 1 and Path(arguments[0]).name == STUB_NAME:
                found[arguments[-2]] = process.pid
    return found


def end_soon(pids: Iterable[int], limit_s: float) -> None:
    """Waits up to ``limit_s`` until processes end, then kills them."""
    until_s = time.monotonic() + limit_s
    for pid in pids:
        while is_alive(pid) and time.monotonic() < until_s:
            time.sleep(_LOOK_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads of a process; 0 if it has ended."""
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal such as SIGSTOP."""
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


_LOOK_S = 0.05
