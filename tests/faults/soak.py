"""Hours of traffic at a moderate rate: does the server hold ever more?

    python -m tests.faults.soak [--hours 2 | --minutes N] [--report FILE]

Starts ``serving serve`` with the tiny pipeline, does a fixed mix of things at a fixed rate, and
notes once in every 10 s what each of its processes holds. Beside the report go a table of all that
was noted (CSV) and a chart (PNG). Returns 1 if something grows or an answer was not as it should
be.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.chart import Chart, draw
from benchmarks.machine import describe
from benchmarks.supervised import Supervised, serve
from benchmarks.tables import markdown
from tests.faults.mix import Outcome, Traffic
from tests.faults.observe import Held, Sample, sample

REPOSITORY = Path(__file__).parent.parent.parent / "build" / "tests"
SETTLED_S = 600.0
"""Until then caches fill and memory that is kept for reuse is fetched."""
MOST_GROWTH = 0.02
MOST_MORE = 2.0
"""Threads or descriptors of all processes together, or MiB of their shared memory, which comes in
steps of 1 MiB."""
_INTERVAL_S = 10.0
"""The look comes at a random moment of each: what the processes hold goes up and down with the beat
by which they give memory back, which always the same moment would take for growth, as the beats'
phases drift."""
_KNOWN_EVERY = 20
_CROWD_EVERY = 500
_FIRST_CROWDS = range(0, _CROWD_EVERY, 75)
"""Things done until a crowd comes, of large pictures and of ones with a ControlNet: often at first,
then every so many."""
_CLIENTS = 16
"""So many things at most are under way at once, on a machine however busy; a crowd is as many: the
most memory that this traffic can need is needed before anything is compared."""
_REPORT_EVERY_S = 300.0
_MIB = 2**20
_Reader = Callable[[Sample], float]
_QUANTITIES: dict[str, tuple[_Reader, float]] = {
    "resident memory, sum of RSS, MiB": (lambda seen: seen.total.rss_bytes / _MIB, 0.0),
    "of it heaps and stacks, MiB": (lambda seen: seen.total.anonymous_bytes / _MIB, 0.0),
    "shared memory, MiB": (lambda seen: seen.shared_bytes / _MIB, MOST_MORE),
    "threads": (lambda seen: seen.total.threads, MOST_MORE),
    "descriptors": (lambda seen: seen.total.descriptors, MOST_MORE),
}
"""What must stay flat: within 2 %, or within so many. The sum of PSS is noted in the table alone:
other servers on the machine share libraries with this one, and change it when they come and go."""


@dataclass(frozen=True)
class Growth:
    """Medians of the first and the last tenth of a stretch of time."""

    first: float
    last: float

    @property
    def share(self) -> float:
        return self.last / self.first - 1 if self.first else float(self.last > 0)


def growth(points: Sequence[float]) -> Growth:
    """What became of a quantity; ``points`` are equally far apart."""
    tenth = max(len(points) // 10, 1)
    return Growth(statistics.median(points[:tenth]), statistics.median(points[-tenth:]))


@dataclass
class Soak:
    """One run: what was noted, and what came of the traffic."""

    server: Supervised
    rate_per_min: float
    settled_s: float
    begun_s: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    cpu_s: float = 0.0

    def run(self, seconds: float, table: Path, note: Callable[[], None]) -> None:
        """Traffic and a look in every 10 s until the time is over or SIGTERM comes."""
        over, lot = threading.Event(), random.Random(0)
        with (
            table.open("w", newline="") as file,
            ThreadPoolExecutor(_CLIENTS) as pool,
            _on_signal(over.set),
        ):
            writer = csv.writer(file)
            writer.writerow(["at_s", "process", *asdict(Held()), "shared_bytes"])
            sender = threading.Thread(target=self._send, args=(pool, over), name="traffic")
            sender.start()
            written_s = self.begun_s
            for turn in itertools.count(1):
                at_s = self.begun_s + (turn + lot.random()) * _INTERVAL_S
                if at_s > self.begun_s + seconds or over.wait(max(at_s - time.monotonic(), 0)):
                    break
                self._look(writer)
                file.flush()
                if time.monotonic() - written_s > _REPORT_EVERY_S:
                    written_s = time.monotonic()
                    note()
            over.set()
            sender.join()

    def _look(self, writer: Any) -> None:
        processes = self.server.pids()
        seen = sample(processes, time.monotonic() - self.begun_s)
        self.samples.append(seen)
        self.cpu_s = sum(_cpu_s(pid) for pid in processes.values())
        for name, held in seen.held.items():
            writer.writerow([f"{seen.at_s:.1f}", name, *asdict(held).values(), ""])
        total = asdict(seen.total).values()
        writer.writerow([f"{seen.at_s:.1f}", "all", *total, seen.shared_bytes])

    def _send(self, pool: ThreadPoolExecutor, over: threading.Event) -> None:
        traffic = Traffic(self.server.url)
        for index in itertools.count():
            due_s = self.begun_s + index * 60 / self.rate_per_min
            if over.wait(max(due_s - time.monotonic(), 0)):
                break
            pool.submit(self._do, traffic.do, index)
            if index % _KNOWN_EVERY == 0:
                pool.submit(self._do, traffic.known_picture)
            if index in _FIRST_CROWDS or index % _CROWD_EVERY == 0:
                for kind in ("large picture", "ControlNet"):
                    for number in range(_CLIENTS):
                        pool.submit(self._do, traffic.do_one, kind, index + number)
        pool.shutdown(wait=True)
        traffic.close()

    def _do(self, what: Callable[..., Outcome], *arguments: Any) -> None:
        self.outcomes.append(what(*arguments))

    @property
    def settled(self) -> list[Sample]:
        """What was noted after caches had filled."""
        return [seen for seen in self.samples if seen.at_s >= self.settled_s]

    def report(self) -> tuple[str, bool]:
        """The report in Markdown, and whether everything stayed as it should."""
        if not self.settled:
            return "nothing was noted yet\n", False
        grown, kept = self._grown()
        _, health = self.server.health()
        mended = int(health["reloads"] + health["restarts"])
        problems = [each for each in self.outcomes if each.problem]
        hours = self.samples[-1].at_s / 3600
        said = (
            f"{describe()}. {hours:.2f} h, {self.rate_per_min:g} things done a minute, "
            f"{self.cpu_s / self.samples[-1].at_s:.2f} cores busy in the server; "
            f"{health['reloads']} models were loaded again, the server was started again "
            f"{health['restarts']} times. Growth is from minute {self.settled_s / 60:g} on."
        )
        parts = [said, grown, self._by_process(), self._by_kind()]
        parts += [f"- {each.kind} {each.index}: {each.problem}" for each in problems[:20]]
        return "\n\n".join(parts) + "\n", kept and not problems and mended == 0

    def _grown(self) -> tuple[str, bool]:
        rows, all_kept = [], True
        for name, (read, most) in _QUANTITIES.items():
            found = growth([read(seen) for seen in self.settled])
            kept = found.share < MOST_GROWTH or found.last - found.first <= most
            all_kept &= kept
            numbers = [f"{found.first:.1f}", f"{found.last:.1f}", f"{found.share:+.1%}"]
            rows.append([name, *numbers, "yes" if kept else "NO"])
        head = ["of all processes", "first tenth", "last tenth", "growth", "flat"]
        return markdown(head, rows), all_kept

    def _by_process(self) -> str:
        rows = []
        for name in self.settled[-1].held:
            held = [seen.held[name] for seen in self.settled if name in seen.held]
            found = [
                growth([one.rss_bytes / _MIB for one in held]),
                growth([one.anonymous_bytes / _MIB for one in held]),
                growth([one.threads for one in held]),
                growth([one.descriptors for one in held]),
            ]
            rows.append([name, *(f"{each.first:.1f} → {each.last:.1f}" for each in found)])
        head = ["process", "RSS, MiB", "heaps, MiB", "threads", "descriptors"]
        return markdown(head, rows)

    def _by_kind(self) -> str:
        rows = []
        for kind in sorted({each.kind for each in self.outcomes}):
            own = [each for each in self.outcomes if each.kind == kind]
            middle, slow = np.percentile([each.seconds for each in own], [50, 95])
            bad = sum(bool(each.problem) for each in own)
            rows.append([kind, len(own), bad, f"{middle:.2f}", f"{slow:.2f}"])
        return markdown(["done", "times", "not as it should be", "p50, s", "p95, s"], rows)

    def draw(self, path: Path) -> None:
        """The chart of all that was noted."""

        def line(read: _Reader) -> list[tuple[float, float]]:
            return [(seen.at_s / 60, read(seen)) for seen in self.samples]

        def of(name: str) -> list[tuple[float, float]]:
            return [
                (seen.at_s / 60, seen.held[name].rss_bytes / _MIB)
                for seen in self.samples
                if name in seen.held
            ]

        names = list(_QUANTITIES)
        memory = {name.removesuffix(", MiB"): line(_QUANTITIES[name][0]) for name in names[:3]}
        processes = {name: of(name) for name in self.samples[-1].held}
        charts = [Chart("memory, MiB", memory), Chart("RSS by process, MiB", processes)]
        charts += [Chart(name, {name: line(_QUANTITIES[name][0])}) for name in names[3:]]
        draw(path, charts, "minutes")


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


@contextlib.contextmanager
def _on_signal(handler: Callable[[], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the soak; returns 1 if something grew or went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=float, default=2.0)
    length.add_argument("--minutes", type=float)
    parser.add_argument("--rate", type=float, default=60.0, help="things done a minute")
    parser.add_argument("--settled", type=float, default=SETTLED_S / 60, metavar="MINUTES")
    parser.add_argument("--report", type=Path, default=Path("build/soak/report.md"))
    arguments = parser.parse_args(argv)
    seconds = arguments.hours * 3600 if arguments.minutes is None else arguments.minutes * 60
    report: Path = arguments.report
    report.parent.mkdir(parents=True, exist_ok=True)
    kept = False
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(REPOSITORY, Path(folder), "--text-cache", "1") as server,
    ):
        soak = Soak(server, arguments.rate, arguments.settled * 60)

        def write() -> None:
            nonlocal kept
            text, kept = soak.report()
            report.write_text(text)
            soak.draw(report.with_suffix(".png"))

        try:
            soak.run(seconds, report.with_suffix(".csv"), write)
        finally:
            write()
    sys.stdout.write(report.read_text())
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
