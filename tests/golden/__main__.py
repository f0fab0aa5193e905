"""Runs golden cases and says how far each is from the reference.

python -m tests.golden --cases DIR --checkpoints DIR [--through engine|server]
    [--target onnx|torch] [--precision fp32|fp16|bf16] [NAME…]
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from build_engines.options import PRECISIONS, TARGETS, TargetOptions
from segs_client.errors import SegsError
from tests.golden.cases import Case, find, read
from tests.golden.pipelines import build_pipelines
from tests.golden.runners import EngineRunner, Runner, served
from tests.golden.verdict import TOLERANCES, Tolerance, Verdict, judge


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line per case and a summary; returns 0 if all passed."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    paths = find(arguments.cases, arguments.names)
    if not paths:
        _say(f"no case in {arguments.cases}" + (" has such a name" if arguments.names else ""))
        return 2
    cases = [read(path) for path in paths]
    target = TargetOptions(arguments.target, precision=arguments.precision)
    repository = arguments.repository or Path("build") / f"golden-{target.name}-{target.precision}"
    build_pipelines(cases, arguments.checkpoints, repository, target)
    verdicts = _run(cases, arguments.through, repository, TOLERANCES[arguments.precision])
    passed = sum(verdict.passed for verdict in verdicts.values())
    _say(f"{passed} passed, {len(verdicts) - passed} failed")
    return 0 if passed == len(verdicts) else 1


def _run(
    cases: Sequence[Case], through: str, repository: Path, tolerance: Tolerance
) -> dict[str, Verdict]:
    verdicts = {}
    with contextlib.ExitStack() as stack:
        runner = _runner(through, repository, stack)
        for case in cases:
            verdicts[case.name] = _verdict(runner, case, tolerance)
            _say(f"{case.name:40} {verdicts[case.name]}")
    return verdicts


def _runner(through: str, repository: Path, stack: contextlib.ExitStack) -> Runner:
    if through == "engine":
        return EngineRunner(repository)
    return stack.enter_context(served(repository))


def _verdict(runner: Runner, case: Case, tolerance: Tolerance) -> Verdict:
    try:
        return judge(case, runner.run(case), tolerance)
    except (SegsError, ValueError) as error:
        return Verdict(fault=f"{type(error).__name__}: {error}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden",
        description="Runs golden cases: what the reference made, and how far this project is from "
        f"it. A case passes with a difference of {TOLERANCES['fp32']}, in grey levels; in fp16 of "
        f"{TOLERANCES['fp16']}.",
    )
    parser.add_argument("--cases", type=Path, required=True, help="folder with *.npz cases")
    parser.add_argument(
        "--checkpoints", type=Path, required=True, help="folder with the checkpoints' folders"
    )
    parser.add_argument(
        "--through",
        choices=("engine", "server"),
        default="engine",
        help="the engine in this process (default), or the real server over gRPC",
    )
    parser.add_argument(
        "--repository",
        type=Path,
        help="where the checkpoints are compiled to (default: build/golden-TARGET-PRECISION)",
    )
    parser.add_argument(
        "--target", choices=TARGETS, default="onnx", help="what runs the networks (default: onnx)"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of the networks (default: fp32)"
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="cases, or beginnings of their names; default all"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
