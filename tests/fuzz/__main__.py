"""Sends hostile requests to a real server of the tiny pipelines and says what came of them.

Exit code 0 where nothing broke: no process ended, nothing hung, no failure without an id, no wrong
answer, every refusal in time.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.supervised import link_pipeline
from serving.options import MODEL_REPOSITORY
from tests.conftest import build_pipelines
from tests.fuzz.calls import Calls
from tests.fuzz.models import Material, read_models
from tests.fuzz.runner import Run
from tests.fuzz.sending import Sender
from tests.fuzz.table import as_json, as_markdown, is_clean
from tests.fuzz.target import Target
from tests.fuzz.verdicts import judge

PIPELINE = "sd15"
_KEEP = Path("out/fuzz")


def main() -> int:
    options = _parser().parse_args()
    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        return _run(options, link_pipeline(build_pipelines([PIPELINE]), Path(folder) / "pipelines"))


def _run(options: argparse.Namespace, pipelines: Path) -> int:
    models = read_models([MODEL_REPOSITORY, pipelines])
    calls = Calls(options.seed, models, Material([pipelines], PIPELINE))
    _KEEP.mkdir(parents=True, exist_ok=True)
    with Target([pipelines], PIPELINE, log_path=_KEEP / "server.log") as target:
        if options.only is not None:
            return _show(target, calls, options.only)
        run = Run(target, calls, options.clients, _KEEP, lambda text: sys.stderr.write(text + "\n"))
        begun, before, load = time.time(), target.memory(), os.getloadavg()
        run.run(range(options.first, options.first + options.requests))
        facts = {
            "seed": options.seed,
            "clients": options.clients,
            "seconds": round(time.time() - begun),
            "date": time.strftime("%Y-%m-%d", time.gmtime(begun)),
            "load": f"{load[0]:.1f} to {os.getloadavg()[0]:.1f}",
            "pss_before_mb": round(before.pss_bytes / 1e6),
            "pss_after_mb": round(target.memory().pss_bytes / 1e6),
            "nvidia-pytriton": version("nvidia-pytriton"),
        }
    sys.stdout.write(as_markdown(run, facts))
    if options.report is not None:
        options.report.write_text(json.dumps(as_json(run, facts), indent=2) + "\n")
    return 0 if is_clean(run) else 1


def _show(target: Target, calls: Calls, numbers: list[int]) -> int:
    """Some calls of a run by themselves, to look at them."""
    for number in numbers:
        call = calls.call(number)
        outcome = Sender(target).send(call)
        sys.stdout.write(f"{number} {call.kind} {call.method} {call.body[:2000]!r}\n")
        told = f"{judge(outcome, call.body)} {outcome.code} {outcome.seconds:.3f} s"
        sys.stdout.write(f"{told}\n{outcome.text[:2000]}\n{target.wounds()}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same calls")
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="number of the first call"
    )
    parser.add_argument("--clients", type=int, default=2, metavar="N", help="connections at once")
    parser.add_argument(
        "--only", type=int, nargs="+", metavar="N", help="send these alone and show them"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the result as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
