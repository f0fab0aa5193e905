"""Throughput and latency under load, and what batching buys against a plain loop.

    python -m benchmarks.load [--gpu | --repository DIR --pipeline NAME] [--parts together …]

Parts, each a Markdown table: ``together`` sends 8 requests at once, the same number one after
another, and runs as many in a plain loop in this process, in turns; ``closed`` has 1 to 32
clients, each with its next request as soon as it has an answer; ``open`` lets requests arrive as a
Poisson process; ``segs`` sends requests of 1 to 60 SEGs. Returns 1 if a bar of ``together`` is
missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.bench import Bench, chosen, median, parser_of
from benchmarks.clients import Crowd, open_loop
from benchmarks.machine import describe
from benchmarks.tables import markdown
from benchmarks.watch import Batch, Watched, mean_rows, watch
from benchmarks.workload import Kind

CLIENTS = (1, 2, 4, 8, 16, 32)
SEGS = (1, 2, 4, 8, 16, 32, 60)
SHARES = (0.5, 0.8)
"""Of the capacity, in the open loop."""
LEAST_FILL = 0.90
MOST_OVER_LOOP = 1.10
LEAST_OVER_ALONE = 1.3
LEAST_ON_GPU = {8: 5.0, 32: 6.5}
"""Requests at once → times faster than the loop, on the stand-in GPU."""
_MOST_IN_TURN = 8
"""Requests that are run one after another, in the loop or through the server."""


@dataclass(frozen=True)
class Together:
    """Seconds of so many requests: at once, one after another, and in the plain loop; medians."""

    count: int
    together_s: float
    alone_s: float
    loop_s: float
    networks_s: float
    rows: float
    limit: int
    live: int

    @property
    def over_loop(self) -> float:
        """Together, in times of the loop."""
        return self.together_s / self.loop_s

    @property
    def fill(self) -> float:
        """Rows of a batch against what was possible: what was live, up to the limit."""
        return self.rows / min(self.limit, self.live)


def measure_together(bench: Bench, kind: Kind, count: int, rounds: int) -> Together:
    """All three in turns; of what comes one after another, a few stand for many."""
    together, alone, loops, networks = [], [], [], []
    batches: list[Batch] = []
    few = min(count, _MOST_IN_TURN)
    for _ in range(rounds):
        loop_s, networks_s = bench.loop(kind, few)
        loops.append(loop_s * count / few)
        networks.append(networks_s * count / few)
        crowd, watched = bench.closed(kind, count)
        together.append(crowd.wall_s)
        batches += watched.batches
        alone.append(bench.closed(kind, 1, few)[0].wall_s * count / few)
    return Together(
        count,
        median(together),
        median(alone),
        median(loops),
        median(networks),
        mean_rows(batches),
        bench.unet_limit(kind),
        count * kind.segs * kind.rows,
    )


def together_part(bench: Bench, kind: Kind, counts: Sequence[int], rounds: int) -> tuple[str, bool]:
    """The table of :class:`Together` and whether all its bars are kept."""
    found = [measure_together(bench, kind, count, rounds) for count in counts]
    on_gpu = bench.pipeline == "standin"
    rows, kept = [], True
    for one in found:
        faster = one.loop_s / one.together_s
        if on_gpu:
            within = faster >= LEAST_ON_GPU.get(one.count, 1.0)
        else:
            within = one.over_loop <= MOST_OVER_LOOP
            within &= one.alone_s / one.together_s >= LEAST_OVER_ALONE
        within &= one.fill >= LEAST_FILL
        kept &= within
        rows.append(
            [
                one.count,
                f"{one.networks_s:.2f}",
                f"{one.loop_s:.2f}",
                f"{one.alone_s:.2f}",
                f"{one.together_s:.2f}",
                f"{faster:.2f} ×",
                f"{one.alone_s / one.together_s:.2f} ×",
                f"{one.rows / one.limit:.0%}",
                f"{one.fill:.0%}",
                "yes" if within else "NO",
            ]
        )
    head = ["requests", "loop's networks, s", "plain loop, s", "one after another, s"]
    head += ["at once, s", "against the loop", "against one after another"]
    head += ["batch fill of the limit", "of what was live", "within"]
    return markdown(head, rows), kept


def closed_part(bench: Bench, kind: Kind, clients: Sequence[int], rounds: int) -> str:
    """One row per number of clients."""
    rows = []
    limit = bench.unet_limit(kind)
    for count in clients:
        crowd, watched = bench.closed(kind, count, rounds)
        possible = min(limit, count * kind.segs * kind.rows)
        rows.append([count, *_latencies(crowd), *_fill(watched, limit, possible)])
    head = ["clients", *_LATENCIES, "batch fill of the limit", "of what was live", "cores busy"]
    return markdown(head, rows)


def open_part(bench: Bench, kind: Kind, count: int) -> str:
    """One row per share of the capacity, which 8 clients show first."""
    capacity = bench.closed(kind, 8, 2)[0].segs_per_s / kind.segs
    rows = []
    limit = bench.unet_limit(kind)
    for share in SHARES:
        requests = bench.fresh(kind, count)
        with watch(bench.server) as watched:
            crowd = open_loop(bench.server.grpc_url, bench.pipeline, requests, share * capacity)
        arrived = f"{share:.0%} of {capacity:.2f} requests/s"
        rows.append([arrived, *_latencies(crowd), *_fill(watched, limit, limit)[1:]])
    return markdown(["arriving", *_LATENCIES, "batch fill of the limit", "cores busy"], rows)


def segs_part(bench: Bench, kind: Kind, counts: Sequence[int]) -> str:
    """One row per number of SEGs in a request that is alone."""
    rows = []
    limit = bench.unet_limit(kind)
    for count in counts:
        crowd, watched = bench.closed(replace(kind, segs=count), 1)
        possible = min(limit, count * kind.rows)
        seconds = crowd.wall_s
        rows.append(
            [count, f"{seconds:.2f}", f"{seconds / count:.3f}", *_fill(watched, limit, possible)]
        )
    head = ["SEGs", "seconds", "seconds per SEG", "batch fill of the limit", "of what was live"]
    return markdown([*head, "cores busy"], rows)


_LATENCIES = ["requests", "SEGs/s", "p50, s", "p95, s", "p99, s"]


def _latencies(crowd: Crowd) -> list[str]:
    percentiles = [f"{crowd.percentile_s(percent):.2f}" for percent in (50, 95, 99)]
    return [str(len(crowd.answers)), f"{crowd.segs_per_s:.2f}", *percentiles]


def _fill(watched: Watched, limit: int, possible: int) -> list[str]:
    rows = watched.unet_rows
    return [f"{rows / limit:.0%}", f"{rows / possible:.0%}", f"{watched.cores:.2f}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables; returns 1 if a bar is missed."""
    parser = parser_of("load", __doc__)
    names = ("together", "closed", "open", "segs")
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--size", type=int, help="of a SEG, px (default: 256; 512 with --gpu)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, nargs="+", help="(default: 8; 8 and 32 with --gpu)")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--segs", type=int, nargs="+", default=SEGS)
    parser.add_argument("--arrivals", type=int, default=40, help="requests at each rate")
    arguments = parser.parse_args(argv)
    kind = Kind(arguments.size or (512 if arguments.gpu else 256), arguments.steps)
    counts = arguments.at_once or ([8, 32] if arguments.gpu else [8])
    kept = True
    with chosen(arguments) as bench:
        bench.warm_up(kind)

        def together() -> str:
            nonlocal kept
            table, kept = together_part(bench, kind, counts, arguments.rounds)
            return table

        parts: dict[str, Callable[[], str]] = {
            "together": together,
            "closed": lambda: closed_part(bench, kind, arguments.clients, arguments.rounds),
            "open": lambda: open_part(bench, kind, arguments.arrivals),
            "segs": lambda: segs_part(bench, kind, arguments.segs),
        }
        sys.stdout.write(f"{describe()}; {bench.pipeline}, {kind.name}\n")
        for name in arguments.parts:
            sys.stdout.write(f"\n{name}:\n\n{parts[name]()}\n")
            sys.stdout.flush()
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
