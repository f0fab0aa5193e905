"""Fixtures of front ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.triton_models.front_ends import Bench, make_bench


@pytest.fixture
def bench(state_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A front end in virtual time, with stand-ins for what is around it."""
    return make_bench(monkeypatch)
