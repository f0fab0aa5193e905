"""The canary that goes on singing; without a server."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from serving import readiness as singer
from serving.canary import Song
from serving.connection import Connection
from serving.errors import CanaryError, ServingError
from serving.health import Health
from serving.readiness import Singer
from serving.server import EmbeddedServer
from triton_models.state import EngineState


@pytest.fixture
def health() -> Health:
    return Health()


class ToldServer:
    """A server whose engine says what a test wants."""

    connection = Connection("nowhere")
    songs = (Song("a"), Song("b", "edges"))

    def __init__(self) -> None:
        self.state = EngineState(requests=0, answered=0)

    def engine_state(self) -> EngineState:
        return self.state


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> ToldServer:
    monkeypatch.setattr(singer, "INTERVAL_S", 0.01)
    monkeypatch.setattr(singer, "AGAIN_S", 0.01)
    return ToldServer()


def sing(told: ToldServer, health: Health, until: Any) -> Singer:
    with Singer(cast(EmbeddedServer, told), health) as bird:
        deadline = time.monotonic() + 5
        while not until() and time.monotonic() < deadline:
            time.sleep(0.005)
    return bird


def test_the_canary_goes_round(
    told: ToldServer, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Song, float]] = []

    def answer(
        server: Connection, song: Song, limit_s: float, *_: Any, refused_is_fine: bool
    ) -> float:
        asked.append((song, limit_s))
        assert refused_is_fine == (told.state.requests > 0)
        told.state = EngineState(requests=len(asked) // 2, answered=0)
        return 0.1

    monkeypatch.setattr(singer, "run_canary", answer)
    sing(told, health, lambda: len(asked) >= 3).check()
    assert asked[:3] == [(Song("a"), 10.0), (Song("b", "edges"), 10.0), (Song("a"), 600.0)]
    assert health.state()["canary"]["seconds"] == 0.1


def test_answered_requests_make_it_needless(
    told: ToldServer, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(singer, "run_canary", lambda *_, **__: pytest.fail("it sang"))
    looked: list[int] = []

    def busy() -> EngineState:
        looked.append(len(looked))
        return EngineState(requests=1, answered=len(looked))

    monkeypatch.setattr(told, "engine_state", busy)
    sing(told, health, lambda: len(looked) > 5).check()


def test_all_songs_are_sung_before_a_mended_server_is_ready(
    told: ToldServer, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(singer, "INTERVAL_S", 60.0)
    outcomes: list[Exception | None] = [CanaryError("not yet"), None, None]
    ready: list[bool] = []

    def answer(*_: Any, **__: Any) -> float:
        ready.append(health.state()["ready"])
        if (outcome := outcomes.pop(0)) is not None:
            bird.sing_all()  # another model was loaded again
            raise outcome
        return 0.1

    monkeypatch.setattr(singer, "run_canary", answer)
    health.reloading(1, "gone")
    with Singer(cast(EmbeddedServer, told), health) as bird:
        bird.sing_all()
        deadline = time.monotonic() + 5
        while not health.state()["ready"] and time.monotonic() < deadline:
            time.sleep(0.005)
    assert ready == [False] * 3
    assert health.state()["ready"]
    bird.check()


def test_failures_in_a_row_end_it(
    told: ToldServer, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[Exception | None] = [None, CanaryError("once"), None]
    outcomes += [CanaryError("twice"), CanaryError("for good")]
    ready: list[bool] = []

    def answer(*_: Any, **__: Any) -> float:
        ready.append(health.state()["ready"])
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return 0.1

    monkeypatch.setattr(singer, "run_canary", answer)
    bird = sing(told, health, lambda: health.state()["reason"] == "for good")
    with pytest.raises(ServingError, match="for good"):
        bird.check()
    assert ready == [False, True, False, True, False]
    assert health.state()["reason"] == "for good"


def test_a_song_that_failed_is_sung_again_before_others(
    told: ToldServer, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Song] = []

    def answer(server: Connection, song: Song, *_: Any, **__: Any) -> float:
        asked.append(song)
        if song == Song("b", "edges"):
            raise CanaryError("its ControlNet answers nobody")
        return 0.1

    monkeypatch.setattr(singer, "run_canary", answer)
    bird = sing(told, health, lambda: len(asked) >= 3 and bool(health.state()["reason"]))
    assert asked == [Song("a"), Song("b", "edges"), Song("b", "edges")]
    with pytest.raises(ServingError, match="its ControlNet"):
        bird.check()


def test_what_was_loaded_again_is_asked_even_after_it_was_given_up(
    told: ToldServer, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long reload: canaries fail meanwhile, and nobody looks at what they say until its end."""
    is_loaded: list[bool] = []

    def answer(*_: Any, **__: Any) -> float:
        if not is_loaded:
            raise CanaryError("no answer")
        return 0.1

    monkeypatch.setattr(singer, "run_canary", answer)
    with Singer(cast(EmbeddedServer, told), health) as bird:
        deadline = time.monotonic() + 5
        while bird._failed is None and time.monotonic() < deadline:
            time.sleep(0.005)
        is_loaded.append(True)
        bird.sing_all()
        bird.check()
        while not health.state()["ready"] and time.monotonic() < deadline:
            time.sleep(0.005)
        assert health.state()["ready"]
        bird.check()
