"""The rows of a run, kept in a folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.gpu.cases import Row

NOT_RUN = "not run"
"""The column with the reason of a row that was not measured."""
_REASON_CHARACTERS = 300


@dataclass(frozen=True)
class About:
    """Where and how rows were measured."""

    gpu: str
    driver: str
    machine: str
    """Date, processor and packages."""
    precision: str
    command: str

    def contradicts(self, other: About) -> bool:
        """Whether rows of both cannot stand in one table."""
        return (self.gpu, self.precision) != (other.gpu, other.precision)


@dataclass
class PartRows:
    """The rows of one part."""

    about: About
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)

    @property
    def measured(self) -> list[Row]:
        """Those that are more than a reason."""
        return [row for row in self.rows if NOT_RUN not in row]

    def is_measured(self, named: Row) -> bool:
        """Whether there is a measured row of these columns."""
        return any(_has(row, named) for row in self.measured)

    def put(self, named: Row, columns: Row) -> None:
        """Sets the row of these columns, in its place or as the last."""
        row = {**named, **columns}
        for index, old in enumerate(self.rows):
            if _has(old, named):
                self.rows[index] = row
                return
        self.rows.append(row)

    def put_not_run(self, named: Row, reason: str) -> None:
        """Sets the row to one that was not measured."""
        self.put(named, {NOT_RUN: _short(reason)})

    def put_missing(self, reason: str | None) -> None:
        """Sets or removes the row that says why the whole part cannot be run."""
        self.rows = [row for row in self.rows if set(row) != {NOT_RUN}]
        if reason is not None:
            self.rows.append({NOT_RUN: _short(reason)})


def _has(row: Row, named: Row) -> bool:
    return all(row.get(name) == value for name, value in named.items())


def _short(reason: str) -> str:
    """One line."""
    return " ".join(reason.split())[:_REASON_CHARACTERS]


def read(folder: Path, part: str) -> PartRows | None:
    """What is known of a part."""
    path = _path(folder, part)
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return PartRows(About(**found["about"]), found["seconds"], found["rows"])


def write(folder: Path, part: str, rows: PartRows) -> None:
    """Writes a part, so that a run which is ended meanwhile leaves the rows before."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, part)
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(asdict(rows), indent=2) + "\n", encoding="utf-8")
    scratch.replace(path)


def _path(folder: Path, part: str) -> Path:
    return folder / f"{part}.json"
