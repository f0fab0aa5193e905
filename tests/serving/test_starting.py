"""From Triton's port to the canaries' answers: processes that die meanwhile; without a server."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from serving import starting as module
from serving.canary import Canary
from serving.errors import CanaryError, CrashError, ModelsDownError, ServingError, StartError
from serving.server import EmbeddedServer
from serving.starting import answer_canaries
from serving.times import RELOADS

SOON_S = 30.0
"""A test that waits for longer has failed."""
DOWN = ModelsDownError("processes have ended", {"sample_0_0": None})


class Starting(EmbeddedServer):
    """A server whose port is open, and whose processes are as a test has them."""

    def __init__(self) -> None:
        super().__init__()
        self.ports = {"grpc": 1}
        self.canaries = (Canary("a"), Canary("b"))
        self.troubles: list[ServingError | None] = []
        """What each look at the processes finds; then nothing."""
        self.reloads: list[ModelsDownError] = []
        self.reloaded = threading.Event()
        self.reload_error: ServingError | None = None

    def check(self) -> None:
        if self.troubles and (trouble := self.troubles.pop(0)) is not None:
            raise trouble

    def reload(self, down: ModelsDownError, stop_asked: threading.Event | None = None) -> None:
        self.reloads.append(down)
        if self.reload_error is not None:
            raise self.reload_error
        self.reloaded.set()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Starting:
    monkeypatch.setattr(module, "_LOOK_S", 0.001)
    return Starting()


def canary_outcomes(patches: pytest.MonkeyPatch, *outcomes: Any) -> list[str]:
    """What canaries do, in turn: raise an error, or wait for an event; then they are answered.
    Returns the pipelines of those that were sent."""
    left, sent = list(outcomes), []

    def run_canary(connection: object, canary: Canary, *_: object) -> float:
        sent.append(canary.pipeline)
        outcome = left.pop(0) if left else None
        if isinstance(outcome, threading.Event):
            assert outcome.wait(SOON_S)
        elif outcome is not None:
            raise outcome
        return 0.1

    patches.setattr(module, "run_canary", run_canary)
    return sent


def test_a_start_without_trouble(server: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = canary_outcomes(monkeypatch)
    answer_canaries(server, threading.Event())
    assert sent == ["a", "b"]
    assert server.reloads == []


def test_a_process_that_dies_before_the_canaries_is_replaced(
    server: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary is held up by it, and goes on with the successor."""
    server.troubles = [None, DOWN]
    sent = canary_outcomes(monkeypatch, server.reloaded)
    answer_canaries(server, threading.Event())
    assert server.reloads == [DOWN]
    assert sent == ["a", "b"]


def test_canaries_are_sent_again_if_one_failed_with_a_process(
    server: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The death is seen only after the failure."""
    server.troubles = [DOWN]
    monkeypatch.setattr(module, "_LOOK_S", SOON_S)
    sent = canary_outcomes(monkeypatch, CanaryError("a is lost"))
    answer_canaries(server, threading.Event())
    assert server.reloads == [DOWN]
    assert sent == ["a", "a", "b"]


def test_a_canary_that_fails_with_all_processes_there_ends_the_start(
    server: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary_outcomes(monkeypatch, CanaryError("a: wrong"))
    with pytest.raises(CanaryError, match="a: wrong"):
        answer_canaries(server, threading.Event())
    assert server.reloads == []


def test_a_process_that_dies_with_each_canary_ends_the_start(
    server: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.troubles = [DOWN] * 100
    monkeypatch.setattr(module, "_LOOK_S", SOON_S)
    sent = canary_outcomes(monkeypatch, *[CanaryError("a is lost")] * 100)
    with pytest.raises(CanaryError, match="a is lost"):
        answer_canaries(server, threading.Event())
    assert len(sent) == RELOADS + 1


def test_the_death_of_tritonserver_is_a_crash(
    server: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is started once more."""
    server.troubles = [ServingError("tritonserver was ended by SIGSEGV")]
    canary_outcomes(monkeypatch, CanaryError("no connection"))
    with pytest.raises(CrashError, match="SIGSEGV"):
        answer_canaries(server, threading.Event())


def test_models_that_do_not_load_again_are_a_crash(
    server: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.troubles = [DOWN]
    server.reload_error = ServingError("sample does not load again")
    canary_outcomes(monkeypatch, CanaryError("no answer"))
    with pytest.raises(CrashError, match="does not load again"):
        answer_canaries(server, threading.Event())


def test_a_stop_that_is_asked_for_ends_the_start(
    server: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_asked = threading.Event()
    stop_asked.set()
    server.troubles = [DOWN] * 5
    canary_outcomes(monkeypatch, CanaryError("stopped while waiting for the answer"))
    with pytest.raises(ServingError):
        answer_canaries(server, stop_asked)


@pytest.mark.parametrize("crashes", [1, 2])
def test_a_crash_has_the_server_started_once_more(
    server: Starting, monkeypatch: pytest.MonkeyPatch, crashes: int
) -> None:
    starts: list[int] = []

    def start(_: threading.Event) -> None:
        starts.append(1)
        if len(starts) <= crashes:
            raise CrashError("ended by SIGABRT")

    monkeypatch.setattr(server, "_start", start)
    if crashes == 1:
        server.start()
    else:
        with pytest.raises(StartError, match="SIGABRT"):
            server.start()
    assert len(starts) == 2
