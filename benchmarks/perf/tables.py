"""Outcomes as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.perf.profiles import Outcome
from benchmarks.perf.results import PERCENTILES
from benchmarks.tables import markdown


def report(outcomes: Sequence[Outcome]) -> str:
    """Both tables, and perf_analyzer's warnings."""
    warnings = [f"{o.profile.title}: {warning}" for o in outcomes for warning in o.warnings]
    return "\n\n".join(
        [
            client_table(outcomes),
            "Calls of each model per request × mean time of a call in ms:",
            server_table(outcomes),
            *warnings,
        ]
    )


def client_table(outcomes: Sequence[Outcome]) -> str:
    """Throughput and latency as callers see them, a row per profile."""
    header = ["profile", "requests/s", "mean, ms", *(f"p{p}, ms" for p in PERCENTILES)]
    rows = []
    for outcome in outcomes:
        result = outcome.result
        if result is None:
            cells = ["not stable", *[""] * (len(header) - 2)]
        else:
            latencies = (result.mean_s, *(result.percentiles_s[p] for p in PERCENTILES))
            cells = [f"{result.requests_per_s:.2f}"]
            cells += ["" if s is None else f"{s * 1e3:.0f}" for s in latencies]
        rows.append([outcome.profile.title, *cells])
    return markdown(header, rows)


def server_table(outcomes: Sequence[Outcome]) -> str:
    """Per profile and model: calls per request × mean milliseconds of a call."""
    results = [(outcome.profile.title, outcome.result) for outcome in outcomes if outcome.result]
    models = sorted({model for _, result in results for model in result.models})
    rows = []
    for title, result in results:
        calls = (result.models.get(model) for model in models)
        cells = [f"{c.per_request:.1f} × {c.compute_s * 1e3:.1f}" if c else "" for c in calls]
        rows.append([title, *cells])
    return markdown(["profile", *models], rows)
