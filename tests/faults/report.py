"""The report in Markdown, between two marks of a page: the last result of every row.

Results are kept in a folder, so that a suite that was run in parts has one report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import describe
from tests.faults.row import Row

BEGIN = "<!-- faults: written by python -m tests.faults --report -->"
END = "<!-- end of faults -->"
_WORDS = {True: "kept", False: "**BROKEN**", None: "not possible here"}


@dataclass(frozen=True)
class Result:
    """What came of one row."""

    name: str
    seen: str
    kept: bool | None
    """None where the fault cannot be made here."""
    seconds: float
    machine: str
    """Where and with what, as :func:`benchmarks.machine.describe` tells it."""

    @classmethod
    def of(cls, row: Row, seen: str, kept: bool | None, seconds: float) -> Result:
        """The result on this machine, today."""
        return cls(row.name, seen, kept, seconds, describe())

    def save(self, folder: Path) -> None:
        """In place of the row's last one."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.json").write_text(json.dumps(asdict(self)))


def load(folder: Path, rows: Sequence[Row]) -> dict[str, Result]:
    """The last results of these rows, by name; of some there may be none."""
    found = {}
    for row in rows:
        path = folder / f"{row.name}.json"
        if path.exists():
            found[row.name] = Result(**json.loads(path.read_text()))
    return found


def to_markdown(rows: Sequence[Row], results: Mapping[str, Result]) -> str:
    """The table, one line per row, under a line with date, machine and versions."""
    kept = sum(result.kept is True for result in results.values())
    machines = sorted({result.machine for result in results.values()})
    lines = [
        f"{kept} of {len(rows)} promises kept. {' / '.join(machines)}.",
        "",
        "| row | fault | promised | seen | | s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        result = results.get(row.name)
        seen, word, seconds = "", "not run", ""
        if result is not None:
            seen, word, seconds = result.seen, _WORDS[result.kept], f"{result.seconds:.1f}"
        cells = row.name, row.fault, row.promise, seen, word, seconds
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(lines)


def write(path: Path, rows: Sequence[Row], results: Mapping[str, Result]) -> None:
    """Puts the table between the marks of a page.

    Raises:
        ValueError: the page has no marks.
    """
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} lacks the line {BEGIN} or {END}")
    path.write_text(f"{before}{BEGIN}\n\n{to_markdown(rows, results)}\n\n{END}{after}")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
