"""More requests than a server can serve: who is let in is served in time, the rest is told at once.

    python -m benchmarks.overload [--gpu | --repository DIR --pipeline NAME]

Measures each kind of request alone and the capacity with 8 clients, then sends a stream of mixed
requests at 1.2 times the capacity. Bars: every request is answered; the 99th percentile of those
let in is at most 3 times the time alone, each against its own kind's; all others are refused as
UNAVAILABLE, with a time to come again, within 50 ms; memory stays. Returns 1 if one is missed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.bench import Bench, chosen, median, parser_of
from benchmarks.clients import Answer, Crowd, closed_loop, open_loop
from benchmarks.machine import describe
from benchmarks.tables import markdown
from benchmarks.workload import Kind, Request
from request_plan.limits import Limits
from serving.server import EmbeddedServer

KINDS = (
    Kind(128, 10),
    Kind(256, 10),
    Kind(256, 20),
    Kind(128, 20, segs=4),
    Kind(256, 10, segs=2),
)
MOST_SLOWDOWN = 3.0
MOST_REFUSAL_S = 0.050
MOST_GROWTH = 1.10
OPTIONS = Limits(max_slowdown=1.8)
"""The estimate's own error, and what preparing and composing take, fit between this and 3."""
_ALONE = 5
_CLIENTS = 8
_SAMPLE_S = 2.0


@dataclass
class Memory:
    """Samples a server's resident bytes in a thread."""

    server: EmbeddedServer
    rss_bytes: list[int] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.rss_bytes.append(self.server.rss_bytes().rss_bytes)
            if self._over.wait(_SAMPLE_S):
                return

    def thirds(self) -> list[int]:
        """The median of each third of the time."""
        return [int(median(part.tolist())) for part in np.array_split(self.rss_bytes, 3)]


@dataclass(frozen=True)
class Stream:
    """What became of the requests."""

    crowd: Crowd
    alone_s: Mapping[Kind, float]
    capacity_per_s: float
    rate_per_s: float
    memory: Memory

    @property
    def refused(self) -> list[Answer]:
        return [answer for answer in self.crowd.answers if answer.refused]

    @property
    def lost(self) -> int:
        """Requests that were neither served nor refused."""
        return len(self.crowd.answers) - len(self.crowd.served) - len(self.refused)

    def slowdowns(self, kind: Kind | None = None) -> list[float]:
        """Times alone that served requests took, of one kind or of all."""
        return [
            answer.seconds / self.alone_s[answer.kind]
            for answer in self.crowd.served
            if kind in (None, answer.kind)
        ]

    def failures(self) -> list[str]:
        """The bars that were missed."""
        thirds = self.memory.thirds()
        bars = {
            "lost requests": self.lost == 0,
            "slowdown": float(np.percentile(self.slowdowns(), 99)) <= MOST_SLOWDOWN,
            "refusals": _refusals_ms(self, 99) <= MOST_REFUSAL_S * 1e3,
            "memory": thirds[2] <= thirds[0] * MOST_GROWTH,
        }
        return [name for name, kept in bars.items() if not kept]


def mixed(bench: Bench, count: int, seed: int = 0) -> list[Request]:
    """As many requests of each kind, in random order."""
    order = np.random.default_rng(seed).permutation(count)
    return [bench.fresh(KINDS[index % len(KINDS)], 1)[0] for index in order]


def measure(bench: Bench, count: int, load: float, capacity_rounds: int) -> Stream:
    """Each kind alone, the capacity, the stream."""
    for kind in KINDS:
        bench.warm_up(kind)
    alone_s = {kind: bench.closed(kind, 1, _ALONE)[0].percentile_s(50) for kind in KINDS}
    capacity_per_s = capacity(bench, capacity_rounds)
    rate_per_s = load * capacity_per_s
    requests = mixed(bench, count)
    with Memory(bench.server) as memory:
        crowd = open_loop(bench.server.grpc_url, bench.pipeline, requests, rate_per_s)
    return Stream(crowd, alone_s, capacity_per_s, rate_per_s, memory)


def capacity(bench: Bench, rounds: int) -> float:
    """Mixed requests a second that 8 clients, have served."""
    requests = mixed(bench, _CLIENTS * rounds, seed=1)
    rows = [requests[start::_CLIENTS] for start in range(_CLIENTS)]
    return len(requests) / closed_loop(bench.server.grpc_url, bench.pipeline, rows).wall_s


def table(stream: Stream) -> str:
    """One row per kind, and one for all."""
    rows = []
    for kind in (*KINDS, None):
        sent = [answer for answer in stream.crowd.answers if kind in (None, answer.kind)]
        refused = [answer for answer in sent if answer.refused]
        slowdowns = stream.slowdowns(kind)
        percentiles = [
            f"{float(np.percentile(slowdowns, percent)):.2f} ×" for percent in (50, 95, 99)
        ]
        rows.append(
            [
                "all" if kind is None else kind.name,
                "" if kind is None else f"{stream.alone_s[kind]:.2f}",
                len(sent),
                len(slowdowns),
                len(refused),
                *percentiles,
            ]
        )
    head = ["requests", "alone, s", "sent", "served", "refused", "p50", "p95", "p99 of alone"]
    return markdown(head, rows)


def summary(stream: Stream) -> str:
    """What holds for the whole stream."""
    megabytes = ", ".join(f"{each / 1e6:.0f}" for each in stream.memory.thirds())
    return (
        f"Capacity {stream.capacity_per_s:.2f} requests/s (8 clients), offered "
        f"{stream.rate_per_s:.2f}/s for {stream.crowd.wall_s:.0f} s; lost {stream.lost}.\n"
        f"Refused in {_refusals_ms(stream, 50):.0f} ms (median), {_refusals_ms(stream, 99):.0f} ms "
        f"(p99), {_refusals_ms(stream, 100):.0f} ms (slowest).\n"
        f"Resident memory of the server, median of each third of the time: {megabytes} MB.\n"
    )


def _refusals_ms(stream: Stream, percent: float) -> float:
    seconds = [answer.seconds for answer in stream.refused]
    return float(np.percentile(seconds, percent)) * 1e3 if seconds else 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 if a bar is missed."""
    parser = parser_of("overload", __doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--load", type=float, default=1.2, help="in times of the capacity")
    parser.add_argument("--capacity-rounds", type=int, default=5, help="requests of each client")
    parser.add_argument("--max-slowdown", type=float, default=OPTIONS.max_slowdown)
    arguments = parser.parse_args(argv)
    options = Limits(max_slowdown=arguments.max_slowdown)
    with chosen(arguments, options) as bench:
        start_s = time.perf_counter()
        stream = measure(bench, arguments.requests, arguments.load, arguments.capacity_rounds)
        name, seconds = bench.pipeline, time.perf_counter() - start_s
    sys.stdout.write(
        f"{describe()}; {name}; max_slowdown {options.max_slowdown}; {seconds:.0f} s in all\n\n"
        f"{table(stream)}\n\n{summary(stream)}"
    )
    failures = stream.failures()
    if failures:
        sys.stdout.write(f"Missed: {', '.join(failures)}\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
