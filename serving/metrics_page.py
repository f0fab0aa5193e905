"""The tables of docs/metrics.md: ``python -m serving.metrics_page`` writes them anew."""

from __future__ import annotations

from pathlib import Path

from serving import health_metrics
from serving.options import REPOSITORY_ROOT
from serving.page_tables import filled, table
from triton_models.metrics import METRICS

PAGE = REPOSITORY_ROOT / "docs" / "metrics.md"


def models_table() -> str:
    """What the Python models tell."""
    rows = [
        (f"`{name}`", metric.kind, ", ".join(f"`{each}`" for each in metric.labels), metric.meaning)
        for name, metric in METRICS.items()
    ]
    return table(("metric", "kind", "labels", "meaning"), rows)


def supervisor_table() -> str:
    """What the supervisor tells on the health port."""
    rows = [
        (f"`{name}`", kind, meaning) for name, (kind, meaning) in health_metrics.METRICS.items()
    ]
    return table(("metric", "kind", "meaning"), rows)


def page() -> str:
    """docs/metrics.md with its tables as they have to be."""
    tables = {"models": models_table(), "supervisor": supervisor_table()}
    return filled(PAGE.read_text(encoding="utf-8"), tables)


def main(path: Path = PAGE) -> None:
    """Writes the page."""
    path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
