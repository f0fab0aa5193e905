"""Runs benchmarks, one after another: ``python -m benchmarks [--load]``.

Without ``--load`` those of one SEG, and eight requests at once on networks with a GPU's times
(minutes); with it the load benchmarks on the tiny pipeline and on those networks (about an hour).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from benchmarks import cost_model, fairness, load, overhead, overload, standin, step_cost

Benchmark = Callable[[], int]


def quick() -> list[Benchmark]:
    """What one SEG costs, and what batching buys on a GPU."""
    repository = str(standin.tiny_repository())
    return [
        lambda: overhead.main(["--repository", repository, "--pipeline", "tiny"]),
        step_cost.main,
        lambda: load.main(["--gpu", "--parts", "together", "--at-once", "8", "--rounds", "1"]),
    ]


def under_load() -> list[Benchmark]:
    """Every load benchmark that needs no pipeline of one's own."""
    return [
        lambda: load.main([]),
        lambda: load.main(["--gpu"]),
        lambda: fairness.main([]),
        lambda: overload.main([]),
        lambda: cost_model.main([]),
        lambda: cost_model.main(["--gpu"]),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Builds the tiny pipeline where needed; returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--load", action="store_true", help="the load benchmarks instead")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    worst = 0
    for benchmark in under_load() if arguments.load else quick():
        worst = max(worst, benchmark())
        sys.stdout.write("\n")
        sys.stdout.flush()
    return worst


if __name__ == "__main__":
    sys.exit(main())
