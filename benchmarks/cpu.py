"""What a CPU reaches with onnxruntime and with OpenVINO, in turns, and the memory of each.

    python -m benchmarks.cpu CHECKPOINT [--runs onnx:fp32,openvino:bf16] [--sides 256,512]

Each target and precision has a process of its own with the pipeline loaded; a request of the same
cost goes to one after the other, without a server. Rounds are compared: the table has the median
over rounds of each one's time, and of its share of the first one's in the same round. Memory is a
process's own at its greatest, without the pages of files. CHECKPOINT may have random weights of
full size (``python -m examples.random_checkpoint``). Prints a Markdown table after every kind.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, cast

import psutil

from benchmarks.machine import describe
from benchmarks.standin import PROJECT
from benchmarks.tables import markdown
from benchmarks.workload import Kind, request
from build_engines import TargetOptions, build
from build_engines.options import PRECISIONS, TARGETS
from pipelines.descriptor import Precision, TargetName
from runners.in_process import LocalDetailer

_PIPELINE = "cpu"
_SAMPLE_S = 0.02


class Run(NamedTuple):
    """What runs the networks."""

    target: TargetName
    precision: Precision

    def __str__(self) -> str:
        return f"{self.target} {self.precision}"


@dataclass(frozen=True)
class Figures:
    """Of one request."""

    seconds: float
    peak_gb: float


def main(argv: Sequence[str] | None = None) -> int:
    """Builds, measures and prints."""
    arguments = _parser().parse_args(argv)
    runs: list[Run] = arguments.runs
    workers = [_Worker(_repository(arguments, run)) for run in runs]
    _say(f"{describe()}; {arguments.steps} steps, {arguments.rounds} rounds\n")
    for side, segs in product(arguments.sides, arguments.segs):
        kind = Kind(side, arguments.steps, segs)
        for worker in workers:
            worker.run(Kind(side, 1, 1), 0)  # loads, and makes kernels for the shapes
        rounds = [
            [worker.run(kind, index) for worker in workers]
            for index in range(1, 1 + arguments.rounds)
        ]
        _say(table(kind, runs, rounds) + "\n")
    for worker in workers:
        worker.close()
    return 0


def table(kind: Kind, runs: Sequence[Run], rounds: Sequence[Sequence[Figures]]) -> str:
    """A row per run: medians over the rounds."""
    rows = []
    for index, run in enumerate(runs):
        own = [each[index] for each in rounds]
        shares = [each[index].seconds / each[0].seconds for each in rounds]
        rows.append(
            [
                kind.name,
                str(run),
                f"{statistics.median(each.seconds for each in own):.2f}",
                f"{statistics.median(shares):.2f}",
                f"{max(each.peak_gb for each in own):.1f}",
            ]
        )
    return markdown(["SEGs", "networks in", "s", "share of the first", "GB"], rows)


class _Worker:
    """A process with a pipeline."""

    def __init__(self, repository: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(repository, other), daemon=True)
        self._process.start()

    def run(self, kind: Kind, index: int) -> Figures:
        self._connection.send((kind, index))
        return cast(Figures, self._connection.recv())

    def close(self) -> None:
        self._connection.send(None)
        self._process.join()


def _serve(repository: Path, connection: Connection) -> None:
    local = LocalDetailer([repository])
    while (asked := connection.recv()) is not None:
        kind, index = asked
        inputs = request(kind, index).inputs(_PIPELINE)
        with _Peak() as peak:
            start_s = time.perf_counter()
            local.detail(inputs)
            seconds = time.perf_counter() - start_s
        connection.send(Figures(seconds, peak.bytes / 1e9))


class _Peak:
    """A context that watches the memory of this process that no file backs."""

    def __enter__(self) -> _Peak:
        self.bytes = 0
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE_S):
            found = self._process.memory_info()
            self.bytes = max(self.bytes, found.rss - found.shared)


def _repository(arguments: argparse.Namespace, run: Run) -> Path:
    folder: Path = arguments.folder / f"{run.target}-{run.precision}"
    options = TargetOptions(run.target, precision=run.precision)
    build(arguments.checkpoint, _PIPELINE, folder, options)
    return folder


def _run(text: str) -> Run:
    target, _, precision = text.partition(":")
    if target not in TARGETS or precision not in PRECISIONS:
        raise argparse.ArgumentTypeError(f"{text!r}: TARGET:PRECISION is expected")
    return Run(cast(TargetName, target), cast(Precision, precision))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def listed(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    def runs(text: str) -> list[Run]:
        return [_run(each) for each in text.split(",")]

    add = parser.add_argument
    add("checkpoint", type=Path, help="a checkpoint as build_engines takes it")
    add(
        "--runs",
        type=runs,
        default="onnx:fp32,openvino:fp32,openvino:bf16",
        help="targets and precisions (default: %(default)s)",
    )
    add("--sides", type=listed, default="256,512", help="of a SEG in pixels (default: %(default)s)")
    add("--segs", type=listed, default="1,8", help="of a request (default: %(default)s)")
    add("--steps", type=int, default=4, help="of each SEG (default: %(default)s)")
    add("--rounds", type=int, default=3, help="of each figure (default: %(default)s)")
    add(
        "--folder",
        type=Path,
        default=PROJECT / "build" / "cpu",
        help="the pipelines are built in it (default: build/cpu)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
