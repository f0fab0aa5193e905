"""The result of a run for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.fuzz.runner import REFUSAL_S, Run, Tally
from tests.fuzz.verdicts import BAD, Verdict

_HEAD = (
    "| kind | calls | answered | refused | late | gRPC's, Triton's INTERNAL | with id | without "
    "| hung | leaks | wrong "
    "| refusals: p50 ms | p99 ms | slowest ms | over 100 ms | also alone | slowest then ms |\n"
    + "|---" * 17
    + "|\n"
)


def is_clean(run: Run) -> bool:
    """Whether nothing came that must not."""
    slow = any(tally.slow_alone for tally in run.tallies.values())
    return not run.findings and not run.target.restarts and not slow


def as_markdown(run: Run, facts: Mapping[str, Any]) -> str:
    """A table with a row for each kind of call."""
    rows = [_row(kind, run.tallies[kind]) for kind in sorted(run.tallies)]
    rows.append(_row("all", _sum(run)))
    told = ", ".join(f"{name} {value}" for name, value in facts.items())
    codes = ", ".join(f"{code} {count}" for code, count in run.codes.most_common())
    end = f"\nServer restarts: {run.target.restarts}. {told}.\nCodes: {codes}.\n"
    return _HEAD + "".join(rows) + end


def as_json(run: Run, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The same as a JSON document."""
    kinds = {kind: _numbers(tally) for kind, tally in run.tallies.items()}
    return {
        **facts,
        "clean": is_clean(run),
        "restarts": run.target.restarts,
        "kinds": kinds,
        "all": _numbers(_sum(run)),
        "codes": dict(run.codes),
        "texts": dict(run.texts.most_common()),
        "findings": [
            {"number": each.call.number, "kind": each.call.kind, "what": each.what}
            for each in run.findings
        ],
    }


def _sum(run: Run) -> Tally:
    total = Tally()
    for tally in run.tallies.values():
        total.verdicts.update(tally.verdicts)
        total.refusals_s += tally.refusals_s
        total.slow_alone += tally.slow_alone
        total.slowest_alone_s = max(total.slowest_alone_s, tally.slowest_alone_s)
    return total


def _numbers(tally: Tally) -> dict[str, Any]:
    shown: tuple[Verdict, ...] = ("answered", "refused", "late", "foreign", "failed", *BAD)
    named: dict[str, int] = {verdict: tally.verdicts[verdict] for verdict in shown}
    return {
        "calls": tally.count,
        **named,
        "p50_ms": round(1e3 * tally.percentile(50), 1),
        "p99_ms": round(1e3 * tally.percentile(99), 1),
        "slowest_ms": round(1e3 * tally.percentile(100), 1),
        "slow": sum(seconds > REFUSAL_S for seconds in tally.refusals_s),
        "slow_alone": tally.slow_alone,
        "slowest_alone_ms": round(1e3 * tally.slowest_alone_s, 1),
    }


def _row(kind: str, tally: Tally) -> str:
    numbers = _numbers(tally)
    del numbers["gone"]
    return f"| {kind} | " + " | ".join(str(value) for value in numbers.values()) + " |\n"
