"""The tables of docs/metrics.md."""

from __future__ import annotations

from docgen.tables import DOCS, filled, table
from serving import health_metrics
from triton_models.metrics import METRICS

PAGE = DOCS / "metrics.md"


def models_table() -> str:
    """Metrics of the Python models."""
    rows = [
        (f"`{name}`", metric.kind, ", ".join(f"`{each}`" for each in metric.labels), metric.meaning)
        for name, metric in METRICS.items()
    ]
    return table(("metric", "kind", "labels", "meaning"), rows)


def supervisor_table() -> str:
    """Metrics of the supervisor, on the health port."""
    rows = [
        (f"`{name}`", kind, meaning) for name, (kind, meaning) in health_metrics.METRICS.items()
    ]
    return table(("metric", "kind", "meaning"), rows)


def metrics_text() -> str:
    """docs/metrics.md with its current tables."""
    tables = {"models": models_table(), "supervisor": supervisor_table()}
    return filled(PAGE.read_text(encoding="utf-8"), tables)
