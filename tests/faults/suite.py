"""All rows, and how one is run."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable

from serving.options import REPOSITORY_ROOT
from tests.faults.bench import Bench
from tests.faults.report import Result
from tests.faults.row import NotPossible, Row
from tests.faults.rows import (
    access,
    clients,
    messages,
    networks,
    pictures,
    processes,
    resources,
    starts,
    stops,
)

_SUBJECTS = (processes, clients, messages, pictures, access, networks, starts, stops, resources)
ROWS: tuple[Row, ...] = tuple(row for subject in _SUBJECTS for row in subject.ROWS.rows)
"""In the order in which they are run."""


_MOST_CHARS = 1000
"""Of what was seen."""


def run_row(row: Row, bench: Bench) -> Result:
    """Makes the fault, then looks whether the server is well again."""
    begun = time.monotonic()
    kept: bool | None = True
    try:
        seen = row.check(bench)
        bench.settle()
    except NotPossible as error:
        seen, kept = str(error), None
    except Exception as error:  # the suite's own mistakes too: the other rows go on
        seen, kept = f"{type(error).__name__}: {error}", False
    if not kept:
        bench.discard()
    for folder in (bench.folder, REPOSITORY_ROOT):
        seen = seen.replace(str(folder), "…")
    seen = textwrap.shorten(seen, _MOST_CHARS)
    return Result.of(row, seen, kept, time.monotonic() - begun)


def find_rows(names: Iterable[str], *, short: bool = False) -> list[Row]:
    """Those whose names begin with one of ``names``; all if there is none.

    Raises:
        LookupError: a name fits no row.
    """
    wanted = tuple(names)
    for name in wanted:
        if not any(row.name.startswith(name) for row in ROWS):
            raise LookupError(f"no row {name!r}; --list shows them")
    return [
        row
        for row in ROWS
        if (row.short or not short) and (not wanted or row.name.startswith(wanted))
    ]
