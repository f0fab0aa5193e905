"""What a load benchmark runs on: a server and the same networks in this process."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import standin
from benchmarks.clients import Crowd, closed_loop
from benchmarks.gpu_curve import FLAT_ROWS, curves
from benchmarks.watch import Watched, watch
from benchmarks.workload import Kind, Request, request
from pipelines import load_all
from request_plan.limits import DEFAULT, Limits
from runners.in_process import LocalDetailer
from serving.server import EmbeddedServer


@dataclass
class Bench:
    """A running server, and its pipeline in this process."""

    server: EmbeddedServer
    local: LocalDetailer
    repository: Path
    pipeline: str
    _sent: int = 0

    def unet_limit(self, kind: Kind) -> int:
        """Rows that a batch of the UNet may have."""
        descriptor, _ = load_all([self.repository])[self.pipeline]
        return descriptor.networks["unet"].batch_limit(
            (descriptor.unet_channels, kind.size // 8, kind.size // 8)
        )

    def fresh(self, kind: Kind, count: int) -> list[Request]:
        """Requests that were not sent before."""
        self._sent += count
        return [request(kind, index) for index in range(self._sent - count, self._sent)]

    def closed(self, kind: Kind, clients: int, rounds: int = 1) -> tuple[Crowd, Watched]:
        """So many clients, each with ``rounds`` requests, one after another."""
        rows = [self.fresh(kind, rounds) for _ in range(clients)]
        with watch(self.server) as watched:
            crowd = closed_loop(self.server.grpc_url, self.pipeline, rows)
        return crowd, watched

    def warm_up(self, kind: Kind, clients: int = 4) -> None:
        """Shows the engine what batches of this kind cost, alone and shared, and opens the
        networks of this process."""
        short = Kind(kind.size, 2, 1, kind.guided)
        self.closed(short, 1)
        self.closed(short, clients)
        self.loop(short, 1)

    def loop(self, kind: Kind, count: int) -> tuple[float, float]:
        """The plain loop: requests one after another in this process, no server.

        Returns its seconds, and those of its networks alone.
        """
        inputs = [each.inputs(self.pipeline) for each in self.fresh(kind, count)]
        self.local.networks.calls.clear()
        start_s = time.perf_counter()
        for each in inputs:
            self.local.detail(each)
        seconds = time.perf_counter() - start_s
        return seconds, sum(call.seconds for call in self.local.networks.calls)


@contextlib.contextmanager
def running(
    repository: Path, pipeline: str, local: LocalDetailer, limits: Limits
) -> Iterator[Bench]:
    """A server of a repository, with the log that :func:`benchmarks.watch.watch` reads."""
    with tempfile.TemporaryDirectory(prefix="segs-bench-") as folder:
        server = EmbeddedServer(
            [repository],
            log_level="DEBUG",
            log_path=Path(folder) / "server.log",
            limits=limits,
        )
        with server:
            yield Bench(server, local, repository, pipeline)


@contextlib.contextmanager
def chosen(arguments: argparse.Namespace, limits: Limits = DEFAULT) -> Iterator[Bench]:
    """The server that the command line asks for; see :func:`add_arguments`."""
    if arguments.gpu:
        using = curves(arguments.scale, arguments.flat_rows)
        with tempfile.TemporaryDirectory(prefix="segs-standin-") as folder:
            repository = Path(folder)
            standin.write_standin(repository, standin.tiny_repository(), using)
            local = standin.local_standin(repository, using)
            with running(repository, standin.NAME, local, limits) as bench:
                yield bench
        return
    repository = arguments.repository or standin.tiny_repository()
    local = LocalDetailer([repository])
    with running(repository, arguments.pipeline, local, limits) as bench:
        yield bench


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which pipeline is run."""
    parser.add_argument("--repository", type=Path, help="of pipelines (default: builds a tiny one)")
    parser.add_argument("--pipeline", default="tiny")
    parser.add_argument(
        "--gpu", action="store_true", help="stand-in networks with a GPU's times instead"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="times slower than that GPU")
    parser.add_argument(
        "--flat-rows", type=float, default=FLAT_ROWS, help="rows of 512² that cost as much as one"
    )


def parser_of(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The command line of one benchmark, with :func:`add_arguments`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=(doc or "").split("\n")[0]
    )
    add_arguments(parser)
    return parser


def median(values: Sequence[float]) -> float:
    """The middle of some measurements."""
    return statistics.median(values)
