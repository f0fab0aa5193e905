"""Makes faults on a real server and looks whether what users are promised holds."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.supervised import PIPELINE
from serving.options import REPOSITORY_ROOT
from tests.conftest import build_pipelines
from tests.faults import report
from tests.faults.bench import Bench
from tests.faults.report import Result
from tests.faults.row import Row
from tests.faults.suite import ROWS, find_rows, run_row

_RESULTS = REPOSITORY_ROOT / "build" / "faults"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the rows that were asked for; exit status 0 if every promise was kept."""
    options = _parser().parse_args(argv)
    try:
        rows = find_rows(options.only, short=options.short)
    except LookupError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if options.list:
        for row in rows:
            _say(f"{row.name:28} {row.fault}")
        return 0
    results = _run(rows)
    if options.report is not None:
        report.write(options.report, ROWS, report.load(_RESULTS, ROWS))
    broken = [result.name for result in results if result.kept is False]
    _say(f"{len(results)} rows, {len(broken)} broken{': ' if broken else ''}{', '.join(broken)}")
    return 1 if broken else 0


def _run(rows: Sequence[Row]) -> list[Result]:
    results = []
    repository = build_pipelines((PIPELINE,))
    with (
        tempfile.TemporaryDirectory(prefix="segs-faults-") as folder,
        Bench(repository, Path(folder)) as bench,
    ):
        for row in rows:
            result = run_row(row, bench)
            word = {True: "kept", False: "BROKEN", None: "not possible"}[result.kept]
            _say(f"{row.name:28} {word:6} {result.seconds:6.1f} s  {result.seen}")
            result.save(_RESULTS)
            results.append(result)
    return results


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="NAME", help="rows, or beginnings of their names"
    )
    parser.add_argument(
        "--short", action="store_true", help="only the rows that `make test-all` runs"
    )
    parser.add_argument("--list", action="store_true", help="show the rows and run none")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write the last result of every row between this page's marks",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
