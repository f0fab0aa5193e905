"""Writes docs/api.md and docs/contract-reference.md."""

from __future__ import annotations

from pathlib import Path

from docgen.api import api_text
from docgen.contract import contract_text

DOCS = Path(__file__).parent.parent / "docs"
REFERENCES = {DOCS / "api.md": api_text, DOCS / "contract-reference.md": contract_text}
"""File → what makes its content."""


def main() -> None:
    """Writes them."""
    for path, text in REFERENCES.items():
        path.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
