"""The servers, what is done to them, and what they have done themselves."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cluster.load import PIPELINE
from benchmarks.cluster.proxy import Backend
from benchmarks.metrics_page import scrape, total
from benchmarks.standin import CHECKPOINTS
from benchmarks.supervised import Setup, Supervised
from build_engines import build
from serving.options import REPOSITORY_ROOT
from serving.ports import claim_port

ENGINES = ("sd15", "sd15-v")
"""Checkpoints that are built under one pipeline's name: the engine that is served, and the next."""
_SAMPLE_S = 0.5


def build_engines() -> list[Path]:
    """A folder with the pipeline for each of :data:`ENGINES`; kept, built again if out of date."""
    folders = [REPOSITORY_ROOT / "build" / "cluster" / name for name in ENGINES]
    for name, folder in zip(ENGINES, folders, strict=True):
        build(CHECKPOINTS / name, PIPELINE, folder)
    return folders


class Member:
    """One server of the cluster, which can be lost, drained and updated.

    Args:
        folder: for its files; made.
        engine: the folder with its pipeline.
    """

    def __init__(self, folder: Path, engine: Path) -> None:
        folder.mkdir()
        self.name = folder.name
        self._link = folder / "pipelines"
        self._link.symlink_to(engine)
        self.metrics_port = claim_port("127.0.0.1", 0, "--metrics-port")
        options = ("--metrics-port", str(self.metrics_port), "--start-timeout", "300")
        self.server = Supervised(Setup(self._link, options), folder)

    @property
    def backend(self) -> Backend:
        return Backend(self.server.ports["grpc"], self.server.ports["grpc-health"])

    def kill(self) -> None:
        """As if its machine were gone: supervisor and tritonserver, with all that is under way."""
        for process in (self.server.one("supervisor"), self.server.one("tritonserver")):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
        self.server.stop()

    def drain(self) -> None:
        """Has it end what it has, and waits."""
        self.server.stop()

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        self.server.start()

    def update(self, engine: Path) -> None:
        """Its next start has this engine."""
        link = self._link.with_name("next")
        link.symlink_to(engine)
        link.replace(self._link)

    def unet_rows(self) -> int | None:
        """Rows that its UNet has worked through since its start, by Triton's metrics."""
        try:
            page = scrape(f"127.0.0.1:{self.metrics_port}", timeout_s=2)
        except OSError:
            return None
        return int(total(page, "nv_inference_count", model=f"{PIPELINE}_unet"))


@dataclass(frozen=True)
class Sight:
    """All servers at one moment of the monotonic clock.

    ``rows`` are those of each UNet since the first sight, over all its starts.
    """

    at_s: float
    ready: tuple[bool, ...]
    rows: tuple[int, ...]


class ServersWatch:
    """Looks at the servers twice a second; a context manager."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._last = [member.unet_rows() or 0 for member in members]
        self._rows = [0] * len(members)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sights: list[Sight] = []

    def __enter__(self) -> ServersWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            at_s = time.monotonic()
            for index, member in enumerate(self._members):
                if (rows := member.unet_rows()) is not None:
                    # A counter that is less than it was has begun again.
                    last = self._last[index] if rows >= self._last[index] else 0
                    self._rows[index] += rows - last
                    self._last[index] = rows
            ready = tuple(member.server.is_ready() for member in self._members)
            self.sights.append(Sight(at_s, ready, tuple(self._rows)))
