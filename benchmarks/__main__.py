"""Runs every benchmark on the tiny pipeline: ``python -m benchmarks``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from benchmarks import overhead, step_cost
from build_engines import build

PROJECT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Builds the pipeline where needed; returns 1 if a bar is missed."""
    logging.basicConfig(level=logging.WARNING)
    repository = PROJECT / "build" / "benchmarks"
    build(PROJECT / "tests" / "data" / "checkpoints" / "sd15", "tiny", repository)
    over = overhead.main(["--repository", str(repository), "--pipeline", "tiny"])
    sys.stdout.write("\n")
    return max(over, step_cost.main())


if __name__ == "__main__":
    sys.exit(main())
