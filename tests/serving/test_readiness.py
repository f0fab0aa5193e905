"""Readiness by canaries, without a server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving import readiness as module
from serving.canary import Canary
from serving.connection import Connection
from serving.errors import CanaryError, ServingError
from serving.health import Health
from serving.readiness import Readiness
from serving.server import EmbeddedServer
from serving.times import CANARY_LIMIT_S

A, B = Canary("a"), Canary("b", "edges")
START_S = 600.0
SOON_S = 30.0
"""A test that waits for longer has failed."""


class Server:
    """A server that is as busy as a test has it."""

    connection = Connection("nowhere")
    canaries: tuple[Canary, ...] = (A, B)
    pipelines = ("a", "b")
    options = SimpleNamespace(start_timeout_s=START_S)

    def __init__(self) -> None:
        self.pending = 0
        self.arrived = 0
        self.answered = 0

    def is_idle(self) -> bool:
        return self.pending == 0

    def activity(self) -> tuple[int, int]:
        return self.arrived, self.answered


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def health() -> Health:
    made = Health()
    made.ready(["a", "b"])
    return made


@pytest.fixture
def readiness(server: Server, health: Health) -> Readiness:
    return Readiness(cast(EmbeddedServer, server), health)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANARY_INTERVAL_S", 0.001)
    monkeypatch.setattr(module, "CANARY_RETRY_S", 0.001)


def answers(patches: pytest.MonkeyPatch, answer: Callable[[Canary, float], None]) -> None:
    """Each canary calls this with its limit; it takes 0.1 s."""

    def run_canary(server: Connection, canary: Canary, limit_s: float, *_: Any) -> float:
        answer(canary, limit_s)
        return 0.1

    patches.setattr(module, "run_canary", run_canary)


def test_failures_of_an_idle_server_in_a_row_end_it(
    readiness: Readiness, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [CanaryError("once"), None, CanaryError("first"), CanaryError("second")]

    def answer(canary: Canary, limit_s: float) -> None:
        assert limit_s == CANARY_LIMIT_S
        if (failure := failures.pop(0)) is not None:
            raise failure

    answers(monkeypatch, answer)
    assert not readiness._send([A])
    assert health.state()["reason"] == "once"
    readiness.check()
    assert readiness._send([A])  # the next one is answered
    assert health.state()["ready"]
    assert health.state()["canary"]["seconds"] == 0.1
    assert not readiness._send([A])
    readiness.check()
    assert not readiness._send([A])
    assert not health.state()["ready"]
    with pytest.raises(ServingError, match="second"):
        readiness.check()


def test_a_canary_that_fails_while_requests_are_answered_takes_nothing_away(
    readiness: Readiness, server: Server, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(canary: Canary, limit_s: float) -> None:
        server.answered += 1
        raise CanaryError("late")

    answers(monkeypatch, answer)
    health.not_ready("late")
    for _ in range(5):
        assert readiness._send([A])
        assert health.state()["ready"]  # the server is alive by another sign
        readiness.check()


def test_a_canary_that_fails_while_requests_arrive_is_no_reason_for_a_start(
    readiness: Readiness, server: Server, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(canary: Canary, limit_s: float) -> None:
        server.arrived += 1
        raise CanaryError("late")

    answers(monkeypatch, answer)
    for _ in range(5):
        assert not readiness._send([A])
        assert not health.state()["ready"]
        readiness.check()


def test_a_canary_of_a_busy_server_is_given_the_time_of_a_start(
    readiness: Readiness, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits_s: list[float] = []

    def answer(canary: Canary, limit_s: float) -> None:
        limits_s.append(limit_s)
        raise CanaryError("late")

    answers(monkeypatch, answer)
    server.pending = 1
    for _ in range(3):
        assert not readiness._send([A])
        readiness.check()
    assert limits_s == [START_S] * 3


def test_canaries_take_turns(
    readiness: Readiness, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that failed is sent again before others."""
    sent: list[Canary] = []
    enough = threading.Event()

    def answer(canary: Canary, limit_s: float) -> None:
        sent.append(canary)
        if len(sent) == 2:
            raise CanaryError("once")
        if len(sent) == 5:
            enough.set()

    answers(monkeypatch, answer)
    with readiness:
        assert enough.wait(SOON_S)
    assert sent[:5] == [A, B, B, A, B]


def test_a_busy_server_is_sent_no_canaries(
    readiness: Readiness, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, lambda *_: pytest.fail("a canary was sent"))
    looks = threading.Semaphore(0)

    def busy() -> bool:
        looks.release()
        return False

    monkeypatch.setattr(server, "is_idle", busy)
    with readiness:
        for _ in range(5):
            assert looks.acquire(timeout=SOON_S)
    readiness.check()


def test_all_canaries_are_answered_before_a_repaired_server_is_ready(
    readiness: Readiness, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CANARY_INTERVAL_S", 600.0)
    sent: list[tuple[Canary, bool]] = []
    is_ready = threading.Event()

    def answer(canary: Canary, limit_s: float) -> None:
        sent.append((canary, bool(health.state()["ready"])))
        if len(sent) == 1:
            readiness.check_all()  # another model was loaded again meanwhile
            raise CanaryError("not yet")

    answers(monkeypatch, answer)
    health.reloading(1, "gone")
    health.follow(lambda ready: is_ready.set() if ready else None)
    with readiness:
        readiness.check_all()
        assert is_ready.wait(SOON_S)
    assert sent == [(A, False), (A, False), (B, False)]
    readiness.check()


def test_a_server_that_was_given_up_is_asked_again_after_a_reload(
    readiness: Readiness, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long reload: canaries fail meanwhile, and are judged only at its end."""
    is_loaded, is_ready = threading.Event(), threading.Event()
    failures = threading.Semaphore(0)

    def answer(canary: Canary, limit_s: float) -> None:
        if not is_loaded.is_set():
            failures.release()
            raise CanaryError("no answer")

    answers(monkeypatch, answer)
    with readiness:
        for _ in range(2):
            assert failures.acquire(timeout=SOON_S)
        is_loaded.set()
        readiness.check_all()
        health.follow(lambda ready: is_ready.set() if ready else None)
        assert is_ready.wait(SOON_S)
        readiness.check()
    assert not failures.acquire(blocking=False)


def test_a_server_without_canaries_is_ready_once_it_is_loaded(
    server: Server, health: Health
) -> None:
    server.canaries = ()
    health.reloading(1, "gone")
    with Readiness(cast(EmbeddedServer, server), health) as readiness:
        readiness.check_all()
        assert health.state()["ready"]
        readiness.check()
