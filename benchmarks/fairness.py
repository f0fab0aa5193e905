"""Small requests beside one of 60 SEGs: what each loses.

    python -m benchmarks.fairness [--gpu | --repository DIR --pipeline NAME]

First both kinds alone, then the large request and beside it clients that each send one-SEG
requests, one after another, until it is done. No small request may take longer than 2.5 times its
time alone. Returns 1 if one does.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.bench import Bench, chosen, median, parser_of
from benchmarks.clients import Answer, send
from benchmarks.machine import describe
from benchmarks.tables import markdown
from benchmarks.workload import Kind
from segs_client import Client

MOST_SLOWDOWN = 2.5
LARGE_SEGS = 60
_ALONE = 5
"""Small requests whose median is the time alone."""


@dataclass(frozen=True)
class Beside:
    """Seconds of both kinds, alone and beside each other."""

    small_alone_s: float
    large_alone_s: float
    small_s: list[float]
    large_s: float

    @property
    def worst(self) -> float:
        """The slowest small request, in times of alone."""
        return max(self.small_s) / self.small_alone_s


def measure(bench: Bench, large: Kind, small: Kind, clients: int) -> Beside:
    """Both alone, then together."""
    alone = [answer.seconds for answer in bench.closed(small, 1, _ALONE)[0].answers]
    large_alone_s = bench.closed(large, 1)[0].wall_s
    large_done = threading.Event()

    def send_large() -> Answer:
        with Client(bench.server.grpc_url, pipeline=bench.pipeline, timeout_s=3000) as client:
            try:
                return send(client, bench.fresh(large, 1)[0])
            finally:
                large_done.set()

    def send_small(first: int) -> list[Answer]:
        answers = []
        with Client(bench.server.grpc_url, pipeline=bench.pipeline, timeout_s=3000) as client:
            while not large_done.wait(0.01 * first):
                answers.append(send(client, bench.fresh(small, 1)[0]))
        return answers

    with ThreadPoolExecutor(clients + 1) as pool:
        large_answer = pool.submit(send_large)
        large_done.wait(large_alone_s / 20)  # the small ones find it at work
        rows = list(pool.map(send_small, range(1, clients + 1)))
    answers = [answer for row in rows for answer in row]
    for answer in (*answers, large_answer.result()):
        if answer.error is not None:
            raise answer.error
    small_s = [answer.seconds for answer in answers]
    return Beside(median(alone), large_alone_s, small_s, large_answer.result().seconds)


def table(found: Sequence[tuple[int, Beside]]) -> str:
    """One row per number of small clients."""
    rows = []
    for clients, one in found:
        p50, p95 = (float(np.percentile(one.small_s, percent)) for percent in (50, 95))
        rows.append(
            [
                clients,
                len(one.small_s),
                f"{one.small_alone_s:.2f}",
                *(f"{s:.2f} ({s / one.small_alone_s:.2f} ×)" for s in (p50, p95)),
                f"{max(one.small_s):.2f} ({one.worst:.2f} ×)",
                f"{one.large_alone_s:.1f}",
                f"{one.large_s:.1f} ({one.large_s / one.large_alone_s:.2f} ×)",
                "yes" if one.worst <= MOST_SLOWDOWN else "NO",
            ]
        )
    head = ["small clients", "small requests", "alone, s", "p50, s", "p95, s", "slowest, s"]
    head += ["large alone, s", "large beside them, s", "within"]
    return markdown(head, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 if the bar is missed with one small client."""
    parser = parser_of("fairness", __doc__)
    parser.add_argument("--size", type=int, default=256, help="of a SEG, px")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--segs", type=int, default=LARGE_SEGS, help="of the large request")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 3], help="of small requests")
    arguments = parser.parse_args(argv)
    small = Kind(arguments.size, arguments.steps)
    large = replace(small, segs=arguments.segs)
    with chosen(arguments) as bench:
        bench.warm_up(small)
        found = [(clients, measure(bench, large, small, clients)) for clients in arguments.clients]
        name = bench.pipeline
    sys.stdout.write(f"{describe()}; {name}; {large.name}, beside {small.name}\n\n{table(found)}\n")
    return 0 if all(one.worst <= MOST_SLOWDOWN for clients, one in found if clients == 1) else 1


if __name__ == "__main__":
    sys.exit(main())
