"""Triton's module for all tests here, and a front end."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from tests.triton_models import pb_utils as stand_in
from tests.triton_models.front_ends import Bench, make_bench
from triton_models import pb_utils


@pytest.fixture(autouse=True)
def triton_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in for the module that only Triton's stub has."""
    monkeypatch.setattr(pb_utils, "__getattr__", functools.partial(getattr, stand_in))


@pytest.fixture
def bench(state_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A front end in virtual time, with stand-ins for what is around it."""
    return make_bench(monkeypatch)
