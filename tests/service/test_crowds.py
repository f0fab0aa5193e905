"""More callers than a front end has threads: none is lost, one that leaves or errs does not
harm another, and every picture is that of the same request alone. Order counts, never speed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.crowds.crowd import Crowd, Target
from benchmarks.crowds.ends import LEFT, OK
from benchmarks.crowds.modes import BadPng, Gone, Honest, Leaver, Photos, Refused, Streams, Webp
from benchmarks.crowds.result import Result, measure
from benchmarks.supervised import PIPELINE, serve

pytestmark = pytest.mark.server

CALLERS = 48
"""Twice as many as are in flight at once."""
STREAMS = 40
GONE = 100
LIMIT_S = 120.0
"""Far off: nothing here is about how fast the machine is."""
LONG = 60
"""Steps of callers who are all still under way when another request comes."""


@pytest.fixture(scope="module")
def target(sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A supervised server of its own: its readiness and its restarts are looked at."""
    with serve(sd15, tmp_path_factory.mktemp("crowds")) as server:
        health_url = f"http://127.0.0.1:{server.ports['health']}"
        yield Target(server.url, PIPELINE, health_url, server.pid)


def meet(target: Target, crowd: Crowd) -> Result:
    """What came of it; none was lost, and nothing was started again."""
    result = measure(target, crowd, every_s=0.5, patience_s=LIMIT_S)
    assert result.lost == 0, result
    assert result.broken == (), result
    assert (result.seen.restarts, result.seen.reloads) == (0, 0)
    assert sum(result.ends.values()) == crowd.callers
    return result


def test_patient_callers_are_all_answered(target: Target) -> None:
    result = meet(target, Honest(CALLERS, steps=1, spread=3, limit_s=LIMIT_S))
    assert result.ends.get(OK)
    assert result.comparison.compared


def test_streams_are_all_answered(target: Target) -> None:
    result = meet(target, Streams(STREAMS, steps=1, spread=3, limit_s=LIMIT_S))
    assert result.ends.get(OK)
    assert result.comparison.compared


def test_one_who_leaves_leaves_alone(target: Target) -> None:
    crowd = Leaver(CALLERS, steps=LONG, spread=3, limit_s=LIMIT_S, sample=3, trouble_s=0.5)
    result = meet(target, crowd)
    assert result.ends[LEFT] == 1
    assert result.comparison.compared


def test_a_wrong_request_is_refused_in_their_midst(target: Target) -> None:
    crowd = Refused(CALLERS, steps=LONG, spread=3, limit_s=LIMIT_S, sample=3, trouble_s=0.5)
    result = meet(target, crowd)
    assert result.aside is not None
    assert result.aside.end == "INVALID_ARGUMENT"
    # It is refused before it waits for a place among them.
    assert result.aside.came_after <= result.aside.sent_after + 1


def test_those_who_drop_their_connections_leave_the_server_to_others(target: Target) -> None:
    meet(target, Gone(GONE, limit_s=LIMIT_S, coming_s=2.0, stay_s=0.3))


def test_a_tiny_request_is_answered_before_all_slow_pictures_are(target: Target) -> None:
    crowd = Webp(3, limit_s=LIMIT_S, sample=1, size=(16383, 1000), trouble_s=0.1)
    result = meet(target, crowd)
    assert result.aside is not None
    assert result.aside.end == OK
    assert result.aside.came_after < crowd.callers


def test_broken_pictures_are_all_refused(target: Target) -> None:
    result = meet(target, BadPng(12, limit_s=LIMIT_S, sample=2, side_px=2000))
    assert result.comparison.compared


def test_photographs_are_all_answered(target: Target) -> None:
    box = (100, 100, 132, 132)
    result = meet(target, Photos(2, limit_s=LIMIT_S, sample=1, size=(2400, 1800), box=box))
    assert result.ends.get(OK)
