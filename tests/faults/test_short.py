"""The short form: the same rows as ``python -m tests.faults --short``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.bench import Bench
from tests.faults.row import Row
from tests.faults.suite import find_rows, run_row

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def bench(sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Bench(sd15, tmp_path_factory.mktemp("faults")) as running:
        yield running


def _case(row: Row) -> Any:
    """Rows whose servers are their own can be run beside the others, subject by subject."""
    subject = row.check.__module__.rpartition(".")[2]
    group = subject if subject in ("starts", "stops", "resources") else "shared"
    return pytest.param(row, id=row.name, marks=pytest.mark.xdist_group(f"faults: {group}"))


@pytest.mark.parametrize("row", map(_case, find_rows((), short=True)))
def test_the_promise_is_kept(row: Row, bench: Bench) -> None:
    result = run_row(row, bench)
    if result.kept is None:
        pytest.skip(result.seen)
    assert result.kept, result.seen
