"""Asking Triton which callers have gone."""

from __future__ import annotations

import threading

import pytest

from triton_models import disconnects
from triton_models.disconnects import DisconnectPoller

SOON_S = 30.0
"""A test that waits for longer has failed."""


class Asked:
    """A request that counts how often it is asked about."""

    def __init__(self, *, is_cancelled: bool = False) -> None:
        self._is_cancelled = is_cancelled
        self._changed = threading.Condition()
        self.times = 0

    def is_cancelled(self) -> bool:
        with self._changed:
            self.times += 1
            self._changed.notify_all()
            return self._is_cancelled

    def cancel(self) -> None:
        self._is_cancelled = True

    def until_asked(self, times: int) -> None:
        """Waits for so many further questions."""
        with self._changed:
            until = self.times + times
            assert self._changed.wait_for(lambda: self.times >= until, SOON_S)


@pytest.fixture
def poller(monkeypatch: pytest.MonkeyPatch) -> DisconnectPoller:
    monkeypatch.setattr(disconnects, "_INTERVAL_S", 0.001)
    return DisconnectPoller()


def test_a_caller_that_goes_is_reported_once(poller: DisconnectPoller) -> None:
    gone, stays = Asked(), Asked()
    reported, reports = threading.Event(), []

    def report() -> None:
        reports.append(1)
        reported.set()

    poller.add(gone, report)
    poller.add(stays, lambda: pytest.fail("its caller has not gone"))
    gone.until_asked(2)
    assert not reported.is_set()
    gone.cancel()
    assert reported.wait(SOON_S)
    times = gone.times
    stays.until_asked(5)  # rounds go on
    assert reports == [1]
    assert gone.times == times


def test_a_request_that_was_removed_is_never_asked_about_again(poller: DisconnectPoller) -> None:
    answered, stays = Asked(), Asked()
    poller.add(answered, lambda: pytest.fail("it was answered"))
    poller.add(stays, lambda: None)
    answered.until_asked(1)
    poller.remove(answered)
    answered.cancel()
    times = answered.times
    stays.until_asked(5)
    assert answered.times == times
    poller.remove(answered)  # a second time does nothing


def test_a_round_that_began_before_a_removal_does_not_ask(poller: DisconnectPoller) -> None:
    answered = Asked(is_cancelled=True)
    poller._poll(id(answered))
    assert answered.times == 0
