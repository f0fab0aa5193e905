"""Runs the parts that are not measured yet, within the minutes given, and writes the page."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

import benchmarks.gpu
from benchmarks.gpu import results
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.cases import Case, NotRun, Options, free_memory
from benchmarks.gpu.page import page
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.results import About, PartRows
from benchmarks.machine import describe

_PROGRAM = "python -m benchmarks.gpu"
_FOLDER = Path(__file__).parents[2] / "build" / "gpu"
_PRECISIONS = ("fp32", "fp16", "bf16")
_GRACE_S = 60.0
"""Beyond its minutes, until the program ends itself."""

PAGE = "gpu.md"
_STDERR = 2

log = logging.getLogger("gpu")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the page; returns 1 if a row failed for another reason than what is missing here."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    given = parser.parse_args(argv)
    parts = given.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"--parts {', '.join(unknown)}: known are {', '.join(PARTS)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    options = _options(given)
    about = _about(options, f"{_PROGRAM} {shlex.join(argv)}")
    known = {} if given.again else {part: results.read(given.out, part) for part in parts}
    for part, rows in known.items():
        if rows is not None and about.contradicts(rows.about):
            parser.error(
                f"--out {given.out}: {part} is of {rows.about.gpu} in {rows.about.precision}; "
                "take another folder, or --again"
            )
    budget = Budget(given.minutes * 60, {part: PARTS[part].weight for part in parts})
    failed = False
    with ended_after(given.minutes * 60 + _GRACE_S):
        for part in parts:
            budget.begin(part)
            rows = known.get(part) or PartRows(about)
            failed |= not _run_part(part, options, budget, rows, about, given.out)
    sys.stdout.write((given.out / PAGE).read_text(encoding="utf-8"))
    return int(failed)


def _run_part(
    part: str, options: Options, budget: Budget, rows: PartRows, about: About, out: Path
) -> bool:
    """Measures what is missing of a part; returns whether nothing failed."""
    begun_s = time.monotonic()
    before_s = rows.seconds
    whole = True

    def write() -> None:
        rows.seconds = before_s + time.monotonic() - begun_s
        results.write(out, part, rows)
        known = ((each, results.read(out, each)) for each in PARTS)
        found = {each: rows for each, rows in known if rows is not None}
        (out / PAGE).write_text(page(found), encoding="utf-8")

    with ExitStack() as stack:
        try:
            cases = PARTS[part].cases(options, stack)
        except NotRun as missing:
            log.info("%s: %s", part, missing)
            rows.put_missing(str(missing))
            write()
            return True
        except Exception as error:  # the other parts may still be measured
            log.exception("%s", part)
            rows.put_missing(_failure(error))
            write()
            return False
        rows.put_missing(None)
        due = [case for case in cases if not rows.is_measured(case.named)]
        rows.about = about if due else rows.about
        for index, case in enumerate(due):
            whole &= _measure(part, case, budget.left_s, len(due) - index, rows)
            write()
    free_memory()
    log.info("%s: %.0f s", part, time.monotonic() - begun_s)
    return whole


def _measure(part: str, case: Case, left_s: float, cases: int, rows: PartRows) -> bool:
    """Measures one row of so many that are due; returns False if it failed."""
    named = " ".join(str(value) for value in case.named.values())
    if left_s <= 0 or left_s < case.least_s:
        needed = f", it takes about {case.least_s:.0f} s" if case.least_s else ""
        rows.put_not_run(case.named, f"out of time{needed}")
        return True
    try:
        rows.put(case.named, case.run(left_s / cases))
    except NotRun as missing:
        rows.put_not_run(case.named, str(missing))
    except Exception as error:  # the other rows may still be measured
        log.exception("%s: %s", part, named)
        rows.put_not_run(case.named, _failure(error))
        return False
    log.info("%s: %s", part, named)
    return True


def _failure(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {error}"


@contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """Ends the program after so many seconds inside, with every thread's place on stderr. What
    waits for a GPU cannot be interrupted otherwise."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _options(given: argparse.Namespace) -> Options:
    return Options(
        device=torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"),
        precision=given.precision,
        sizes=tuple(given.sizes.split(",")),
        batches=_numbers(given.batches),
        seconds=given.seconds,
        rate_side=given.rate_side,
        steps=given.steps,
        callers=_numbers(given.callers),
        every=given.every,
        compile=given.compile,
        folder=_FOLDER,
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(","))


def _about(options: Options, command: str) -> About:
    name, driver = "no GPU", "none"
    if options.device.type == "cuda":
        name = torch.cuda.get_device_name(options.device)
        driver = _driver()
    return About(name, driver, describe(), options.precision, command)


def _driver() -> str:
    """The GPU driver's version."""
    try:
        from pipelines.gpu import GpuError, find_gpus  # needs pydantic, which may be missing
    except ImportError:
        return "unknown"
    try:
        return find_gpus()[0].driver
    except GpuError:
        return "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description=benchmarks.gpu.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the results")
    add("--minutes", type=float, default=8.0, help="for all parts together (default: 8)")
    add("--parts", default=",".join(PARTS), help="default: %(default)s")
    add("--again", action="store_true", help="measures again what is measured already")
    add("--precision", choices=_PRECISIONS, default="fp16", help="default: %(default)s")
    add("--sizes", default="sd15,sdxl", help="of the networks (default: %(default)s; tiny)")
    add("--batches", default="1,2,8,16", help="rows (default: %(default)s)")
    add("--seconds", type=float, default=1.0, help="of each figure's repeats (default: 1)")
    add("--rate-side", type=int, default=8192, help="of the matrices (default: %(default)s)")
    add("--steps", type=int, default=20, help="of a SEG (default: %(default)s)")
    add("--callers", default="1,8,32", help="at once (default: %(default)s)")
    add("--every", type=int, default=1, help="which golden cases: every so many (default: all)")
    add("--compile", action="store_true", help="measures torch.compile too; minutes more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
