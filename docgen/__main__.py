"""Writes the pages of docs/ with content generated from the code."""

from __future__ import annotations

from docgen.api import api_text
from docgen.contract import contract_text
from docgen.limits import limits_text
from docgen.metrics import metrics_text
from docgen.tables import DOCS

__all__ = ["DOCS", "REFERENCES"]

REFERENCES = {
    DOCS / "api.md": api_text,
    DOCS / "contract-reference.md": contract_text,
    DOCS / "limits.md": limits_text,
    DOCS / "metrics.md": metrics_text,
}
"""File → function that makes its content."""


def main() -> None:
    """Writes them."""
    for path, text in REFERENCES.items():
        path.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
