"""The golden cases on this device."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial

from benchmarks.gpu.cases import Case, Options, Row
from benchmarks.standin import CHECKPOINTS, PROJECT
from build_engines import TargetOptions
from tests.golden.cases import find, read
from tests.golden.pipelines import build_pipelines
from tests.golden.runners import EngineRunner
from tests.golden.verdict import TOLERANCES, Verdict, judge

_CASES = PROJECT / "tests" / "data" / "golden"


def golden(options: Options, stack: ExitStack) -> list[Case]:
    """One row for all of them."""
    named = {"precision": options.precision}
    return [Case(named, partial(_judged, options), least_s=0 if options.is_rehearsal else 20)]


def _judged(options: Options, seconds: float) -> Row:
    """Judges as many as fit into the time, those of the most used pipelines first."""
    until_s = time.monotonic() + seconds
    cases = [read(path) for path in find(_CASES, ())[:: options.every]]
    uses = Counter(case.pipeline for case in cases)
    repository = PROJECT / "build" / f"gpu-{options.precision}"
    target = TargetOptions("torch", precision=options.precision)
    verdicts: dict[str, Verdict] = {}
    for pipeline, _ in uses.most_common():
        if verdicts and time.monotonic() > until_s:
            break
        own = [case for case in cases if case.pipeline == pipeline]
        build_pipelines(own, CHECKPOINTS, repository, target)
        runner = EngineRunner(repository)
        for case in own:
            if verdicts and time.monotonic() > until_s:
                break
            verdicts[case.name] = judge(case, runner.run(case), TOLERANCES[options.precision])
    means = {name: verdict.mean_difference for name, verdict in verdicts.items()}
    worst = max(means, key=means.__getitem__)
    return {
        "cases": f"{len(verdicts)} of {len(cases)}",
        "passed": sum(verdict.passed for verdict in verdicts.values()),
        "greatest mean": round(means[worst], 4),
        "of": worst,
        "median mean": round(statistics.median(means.values()), 4),
        "failed": ", ".join(name for name, verdict in verdicts.items() if not verdict.passed),
    }
