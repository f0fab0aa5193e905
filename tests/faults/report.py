"""The report in Markdown: the last full run, between two marks of a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import describe
from tests.faults.suite import Result

BEGIN = "<!-- faults: written by python -m tests.faults --report -->"
END = "<!-- end of faults -->"
_WORDS = {True: "kept", False: "**BROKEN**", None: "not possible here"}


def to_markdown(results: Sequence[Result]) -> str:
    """The table, one line per row, under a line with date, machine and versions."""
    kept = sum(result.kept is True for result in results)
    lines = [
        f"{kept} of {len(results)} promises kept. {describe()}.",
        "",
        "| row | fault | promised | seen | | s |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        row = result.row
        cells = row.name, row.fault, row.promise, result.seen, _WORDS[result.kept]
        text = " | ".join(_cell(cell) for cell in cells)
        lines.append(f"| {text} | {result.seconds:.1f} |")
    return "\n".join(lines)


def write(path: Path, results: Sequence[Result]) -> None:
    """Puts the table between the marks of a page; a page that is not there yet is made of it.

    Raises:
        ValueError: the page has no marks.
    """
    page = path.read_text() if path.exists() else f"{BEGIN}\n{END}\n"
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} lacks the line {BEGIN} or {END}")
    path.write_text(f"{before}{BEGIN}\n\n{to_markdown(results)}\n\n{END}{after}")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
