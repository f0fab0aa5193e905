"""What it costs the engine's loop that its batches are counted for the metrics.

    python -m benchmarks.counted

Beside a step of one SEG with networks that answer at once, of `benchmarks.step_cost`, in the same
run. Latents are 64×64 (pictures of 512²); one thread.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from benchmarks.machine import describe
from benchmarks.step_cost import SHAPE, measure
from sampling.statistics import EngineStats

BATCHES = 20_000
ROUNDS = 9


def seconds_a_batch(*, is_published: bool) -> float:
    """The median of what counting a batch takes.

    Args:
        is_published: whether measurements are kept, as where the metrics' port is open.
    """
    stats = EngineStats()
    stats.batch_fill.wanted = stats.step_seconds.wanted = is_published
    taken_s = []
    for _ in range(ROUNDS):
        start_s = time.perf_counter()
        for _ in range(BATCHES):
            stats.began("base_unet", SHAPE[1:], 2, 0, 16)
            stats.step_seconds.add(0.1, "base_unet")
        taken_s.append((time.perf_counter() - start_s) / BATCHES)
        stats.batch_fill.take()
        stats.step_seconds.take()
    return statistics.median(taken_s)


def main() -> int:
    """Prints the table."""
    torch.set_num_threads(1)
    step_s, _ = measure("euler", 1)
    lines = [describe(), "", "| counting a batch | µs | of a step |", "| --- | --- | --- |"]
    for name, is_published in (("published", True), ("not published", False)):
        batch_s = seconds_a_batch(is_published=is_published)
        lines.append(f"| {name} | {batch_s * 1e6:.2f} | {batch_s / step_s:.2%} |")
    lines += ["", f"A step of one SEG outside the networks: {step_s * 1e3:.2f} ms."]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
