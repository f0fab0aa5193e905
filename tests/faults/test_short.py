"""The short form: the same rows as ``python -m tests.faults --short``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.bench import Bench
from tests.faults.row import Row, set_patience
from tests.faults.suite import find_rows, run_row

pytestmark = pytest.mark.server

_PATIENCE = 10.0
"""How fast the promises are kept is measured by ``python -m tests.faults``."""


@pytest.fixture(scope="module")
def bench(sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    set_patience(_PATIENCE)
    try:
        with Bench(sd15, tmp_path_factory.mktemp("faults")) as running:
            yield running
    finally:
        set_patience(1)


def _name(row: Row) -> str:
    """After the subject, if its servers are its own: then it can be run beside the others."""
    subject = row.check.__module__.rpartition(".")[2]
    return f"{subject if subject in ('starts', 'stops', 'resources') else 'shared'}/{row.name}"


@pytest.mark.parametrize("row", find_rows((), short=True), ids=_name)
def test_the_promise_is_kept(row: Row, bench: Bench) -> None:
    result = run_row(row, bench)
    if result.kept is None:
        pytest.skip(result.seen)
    assert result.kept, result.seen
