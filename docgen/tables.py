"""Tables in pages of the docs that are generated from the code, between two comments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def filled(text: str, tables: Mapping[str, str]) -> str:
    """The page with each table between ``<!-- name -->`` and ``<!-- end of name -->``."""
    for name, content in tables.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        text = before + begin + content + end + after
    return text
