"""What a server did meanwhile: its batches, from its log, and the CPU it took."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from serving.server import EmbeddedServer

_BATCH = re.compile(r"batch network=(\S+) rows=(\d+) calls=(\d+) requests=(\d+) ms=([\d.]+)")
_LOG_DELAY_S = 0.3


@dataclass(frozen=True)
class Batch:
    """One call of a network, as the engine's log tells it."""

    network: str
    rows: int
    calls: int
    requests: int
    seconds: float

    @property
    def is_unet(self) -> bool:
        return self.network.endswith("_unet")


@dataclass
class Watched:
    """A stretch of time; filled when it is over."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    batches: list[Batch] = field(default_factory=list)

    @property
    def cores(self) -> float:
        """CPU cores that the server and its models kept busy, in the mean."""
        return self.cpu_s / self.wall_s

    @property
    def unet_rows(self) -> float:
        """Rows of a batch of the UNet, in the mean."""
        return mean_rows(self.batches)


def mean_rows(batches: Sequence[Batch]) -> float:
    """Rows of a batch of the UNet, in the mean; 0 where there was none."""
    rows = [batch.rows for batch in batches if batch.is_unet]
    return sum(rows) / len(rows) if rows else 0.0


@contextlib.contextmanager
def watch(server: EmbeddedServer) -> Iterator[Watched]:
    """Watches a server with log level DEBUG and a log file while inside."""
    path = _log_path(server)
    time.sleep(_LOG_DELAY_S)
    offset, cpu_s, start_s = path.stat().st_size, _cpu_s(server.pid), time.perf_counter()
    watched = Watched()
    yield watched
    watched.wall_s = time.perf_counter() - start_s
    watched.cpu_s = _cpu_s(server.pid) - cpu_s
    time.sleep(_LOG_DELAY_S)
    with path.open(encoding="utf-8") as log:
        log.seek(offset)
        watched.batches += read_batches(log.read())


def read_batches(text: str) -> list[Batch]:
    """The batches that some lines of the log tell of."""
    return [
        Batch(name, int(rows), int(calls), int(requests), float(ms) / 1e3)
        for name, rows, calls, requests, ms in _BATCH.findall(text)
    ]


def _log_path(server: EmbeddedServer) -> Path:
    if server.log_path is None or server.options.log_level != "DEBUG":
        raise ValueError("a server with log_path and log_level='DEBUG' is required")
    return server.log_path


def _cpu_s(pid: int) -> float:
    """User and system seconds of a process and its descendants."""
    root = psutil.Process(pid)
    total_s = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total_s += times.user + times.system
    return total_s
