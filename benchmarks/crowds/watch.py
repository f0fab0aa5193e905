"""What is seen of a server from outside while a crowd is there."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.crowds.calls import ask_once, small_ask
from benchmarks.crowds.crowd import Target

HEALTH_S = 0.25
"""Between two looks at readiness."""
PROCESSES_S = 1.0
"""Between two looks at the processes; one costs some ms."""
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Seen:
    """Of one crowd; None where it could not be seen."""

    restarts: int | None = None
    reloads: int | None = None
    not_ready_s: float | None = None
    peak_rss_bytes: int | None = None
    """Of all processes together, each with what it shares with others."""
    peak_threads: int | None = None


def read_health(url: str) -> tuple[int, dict[str, Any]]:
    """HTTP status and content of ``/health/ready``; status 0 if there is no answer."""
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=_TIMEOUT_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with contextlib.suppress(ValueError):
            return error.code, json.load(error)
        return error.code, {}
    except (OSError, ValueError):
        return 0, {}


class ServerWatch:
    """Looks at readiness, restarts, memory and threads; a context manager."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._before: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        self._not_ready_s = 0.0
        self._peak_rss_bytes = self._peak_threads = 0

    def __enter__(self) -> ServerWatch:
        if self._target.health_url is not None:
            self._before = self._last = read_health(self._target.health_url)[1]
            self._start(self._watch_health)
        if self._target.pid is not None:
            self._start(self._watch_processes)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _start(self, what: Any) -> None:
        self._threads.append(threading.Thread(target=what, daemon=True))
        self._threads[-1].start()

    def _watch_health(self) -> None:
        assert self._target.health_url is not None
        over = False
        while not over:  # the last look comes after the crowd
            over = self._over.is_set()
            begun_s = time.monotonic()
            status, content = read_health(self._target.health_url)
            self._last = content or self._last
            self._over.wait(HEALTH_S)
            if status != 200:
                self._not_ready_s += time.monotonic() - begun_s

    def _watch_processes(self) -> None:
        while True:
            rss_bytes, threads = _held(self._target.pid)
            self._peak_rss_bytes = max(self._peak_rss_bytes, rss_bytes)
            self._peak_threads = max(self._peak_threads, threads)
            if self._over.wait(PROCESSES_S):
                return

    def seen(self) -> Seen:
        """What it was, at the end."""
        found: dict[str, Any] = {}
        if self._target.health_url is not None:
            for name in ("restarts", "reloads"):
                found[name] = int(self._last.get(name, 0)) - int(self._before.get(name, 0))
            found["not_ready_s"] = round(self._not_ready_s, 2)
        if self._target.pid is not None:
            found |= {"peak_rss_bytes": self._peak_rss_bytes, "peak_threads": self._peak_threads}
        return Seen(**found)


def _held(pid: int | None) -> tuple[int, int]:
    """Resident bytes and threads of a process and all below it."""
    rss_bytes = threads = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                rss_bytes += process.memory_info().rss
                threads += process.num_threads()
    return rss_bytes, threads


class Stranger:
    """A client beside the crowd: a tiny request every so often; a context
    manager.

    Args:
        every_s: from an answer to the next request.
        patience_s: until it gives up.
    """

    def __init__(self, target: Target, every_s: float = 2.0, patience_s: float = 60.0) -> None:
        self._target, self._every_s, self._patience_s = target, every_s, patience_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.ends: Counter[str] = Counter()
        self.slowest_s = 0.0

    def __enter__(self) -> Stranger:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        ask = small_ask(self._target.pipeline, "stranger")
        while not self._over.wait(self._every_s):
            begun_s = time.monotonic()
            self.ends[ask_once(self._target.url, ask, self._patience_s).end] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun_s)
