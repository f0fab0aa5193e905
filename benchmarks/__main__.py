"""Runs every benchmark on the tiny pipeline: ``python -m benchmarks``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from benchmarks import overhead
from build_engines import build

PROJECT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Builds the pipeline where needed; returns 1 if a bar is missed."""
    logging.basicConfig(level=logging.WARNING)
    repository = PROJECT / "build" / "benchmarks"
    build(PROJECT / "tests" / "data" / "checkpoints" / "sd15", "tiny", repository)
    return overhead.main(["--repository", str(repository), "--pipeline", "tiny"])


if __name__ == "__main__":
    sys.exit(main())
