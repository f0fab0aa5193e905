"""Which process holds a request, and whether it is cancelled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from triton_models import environment
from triton_models.request_registry import RequestRegistry


@pytest.fixture
def registry(state_folder: Path) -> RequestRegistry:
    return RequestRegistry.of_environment()


def test_the_process_that_took_a_request_is_known_until_it_is_forgotten(
    registry: RequestRegistry,
) -> None:
    assert registry.process_of("a") is None
    registry.enter("a")
    assert registry.process_of("a") == os.getpid()
    assert registry.process_of("b") is None
    registry.forget("a")
    assert registry.process_of("a") is None


def test_a_cancelled_request_is_so_until_it_is_forgotten(registry: RequestRegistry) -> None:
    assert registry.cancelled() == frozenset()
    registry.cancel("a")
    registry.cancel("a")
    registry.cancel("b")
    assert registry.is_cancelled("a")
    assert not registry.is_cancelled("c")
    assert registry.cancelled() == {"a", "b"}
    registry.forget("a")
    registry.forget("never noted")
    assert registry.cancelled() == {"b"}


def test_two_processes_share_it(registry: RequestRegistry) -> None:
    registry.cancel("a")
    assert RequestRegistry.of_environment().is_cancelled("a")


def test_a_broken_note_is_none(registry: RequestRegistry, state_folder: Path) -> None:
    (state_folder / "requests" / "a").write_text("")
    assert registry.process_of("a") is None


def test_without_room_nothing_is_noted_and_nothing_raises(tmp_path: Path) -> None:
    registry = RequestRegistry(tmp_path / "gone")
    registry.enter("a")
    registry.cancel("a")
    registry.forget("a")
    assert registry.process_of("a") is None
    assert registry.cancelled() == frozenset()


def test_without_a_folder_nothing_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.STATE, raising=False)
    monkeypatch.chdir(tmp_path)
    registry = RequestRegistry.of_environment()
    registry.enter("a")
    registry.cancel("a")
    registry.forget("a")
    assert registry.process_of("a") is None
    assert not registry.is_cancelled("a")
    assert registry.cancelled() == frozenset()
    assert list(tmp_path.iterdir()) == []
