"""When a request is sent again, and until when, by a clock that only pauses move."""

from __future__ import annotations

import heapq
import itertools
import random
from typing import Any

import pytest
from fake_world import DEAD, Clock, World, refusal

from segs_client import DeadlineExceeded, InvalidRequest, Retries, ServerUnavailable, retries
from segs_client.errors import LEAST_WAIT_S
from segs_client.exchange import Pause

NO_JITTER = {"first_pause_s": 0.0, "max_pause_s": 0.0}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.instead(monkeypatch)


def test_refusals_are_repeated_until_the_time_is_up(clock: Clock) -> None:
    world = World({"a": refusal(2.0, "overloaded")}, timeout_s=300.0)
    with pytest.raises(ServerUnavailable, match="overloaded") as caught:
        world.run()
    assert caught.value.retry_after_s == 2.0
    assert len(world.asked) > 300 / 4  # many more than there are rounds
    assert all(2.0 <= each <= 4.0 for each in world.pauses)
    assert 1297 < clock.now_s < 1300
    assert [each.pause_s for each in world.told] == world.pauses


def test_a_refusal_is_outlasted() -> None:
    world = World({"a": [refusal(3.0)] * 30 + ["fine"]}, timeout_s=300.0, max_pause_s=1.5)
    assert world.run().tries == 31
    assert all(3.0 <= each <= 4.5 for each in world.pauses)
    assert max(world.pauses) > 4.0 > 3.5 > min(world.pauses)


@pytest.mark.parametrize("said_s", [0.0, -3.0, 0.01])
def test_no_pause_is_shorter_than_the_least(said_s: float) -> None:
    world = World({"a": refusal(said_s)}, timeout_s=20.0, max_pause_s=0.0)
    with pytest.raises(ServerUnavailable) as caught:
        world.run()
    assert caught.value.retry_after_s == LEAST_WAIT_S
    assert set(world.pauses) == {LEAST_WAIT_S}
    assert ServerUnavailable("", retry_after_s=float("nan")).retry_after_s == LEAST_WAIT_S


def test_a_wait_that_would_outlast_the_deadline_is_not_begun() -> None:
    world = World({"a": refusal(30.0, "overloaded")}, timeout_s=10.0)
    with pytest.raises(ServerUnavailable, match="overloaded") as caught:
        world.run()
    assert caught.value.retry_after_s == 30.0
    assert world.asked == ["a"]
    assert world.pauses == []


def test_jitter_leaves_time_for_the_work() -> None:
    unavailable = [ServerUnavailable("overloaded", retry_after_s=8.0)]
    pauses = [Retries().pause_s(0, unavailable, 10.0) or 0.0 for _ in range(500)]
    assert min(pauses) >= 8.0 and max(pauses) <= 9.0
    assert Retries().pause_s(0, unavailable, 8.0 + LEAST_WAIT_S) is not None
    assert Retries().pause_s(0, unavailable, 8.0) is None


def test_pauses_are_spread_over_all_of_their_range() -> None:
    unavailable = [ServerUnavailable("no")]
    pauses = [Retries().pause_s(3, unavailable, 60.0) or 0.0 for _ in range(2000)]
    least_s = LEAST_WAIT_S
    assert least_s <= min(pauses) < least_s + 0.05 and least_s + 0.95 < max(pauses) <= least_s + 1
    assert sum(pauses) / len(pauses) == pytest.approx(least_s + 0.5, abs=0.05)
    longest = Retries(max_pause_s=4.0, rounds=2000).pause_s(2000, unavailable, 60.0)
    assert longest is not None and longest <= least_s + 4.0


@pytest.mark.parametrize("rounds", [0, 2])
@pytest.mark.parametrize("failure", [DEAD, refusal(5.0, "a part of the server died meanwhile")])
def test_rounds_of_failures_are_bounded(rounds: int, failure: Exception) -> None:
    world = World({"a": failure}, rounds=rounds, losses=9)
    with pytest.raises(ServerUnavailable):
        world.run()
    assert len(world.asked) == rounds + 1


def test_without_rounds_nothing_is_repeated() -> None:
    world = World({"a": refusal(1.0), "b": refusal(1.0)}, rounds=0)
    with pytest.raises(ServerUnavailable):
        world.run()
    assert (world.asked, world.pauses) == (["a", "b"], [])


def test_failures_between_refusals_are_counted() -> None:
    world = World({"a": [refusal(1.0), DEAD] * 20}, rounds=3, **NO_JITTER)
    with pytest.raises(ServerUnavailable, match="failed to connect"):
        world.run()
    assert world.asked == ["a"] * 8


def test_one_server_that_refuses_keeps_the_request_going() -> None:
    world = World({"a": DEAD, "b": refusal(20.0, "overloaded")}, timeout_s=300.0, **NO_JITTER)
    with pytest.raises(ServerUnavailable, match="overloaded") as caught:
        world.run()
    assert caught.value.retry_after_s == 20.0
    assert world.pauses[:7] == [LEAST_WAIT_S] * 7  # for the dead one, as long as there are rounds
    assert set(world.pauses[7:]) == {20.0}


def test_a_refusal_beyond_the_deadline_does_not_keep_others_from_being_tried() -> None:
    world = World({"a": [DEAD, *["fine"] * 4], "b": refusal(50.0)}, timeout_s=20.0)
    assert world.run().url == "a"


def test_what_is_left_of_the_time_goes_along() -> None:
    world = World({"a": [DEAD, refusal(3.0), "fine"]}, timeout_s=10.0, **NO_JITTER)
    world.run()
    assert world.timeouts == pytest.approx([10.0, 9.5, 6.5], abs=0.01)


def test_a_crowd_is_served_by_a_server_with_room_for_two(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "_jitter", random.Random(5))
    for is_told in (True, False):
        tries = crowd(clock, callers=16, room=2, work_s=10.0, is_told=is_told)
        assert len(tries) == 16
        assert max(tries) > Retries().rounds + 1


def crowd(clock: Clock, callers: int, room: int, work_s: float, is_told: bool) -> list[int]:
    """How often each asked that was answered; ``is_told``: whether the server knows how long its
    work takes, and else it says 0."""
    worlds = [World({"a": None}, timeout_s=300.0) for _ in range(callers)]
    programs = [world.start() for world in worlds]
    order = itertools.count()
    due: list[tuple[float, int, int, Any]]
    due = [(clock.now_s, next(order), index, None) for index in range(callers)]
    busy_until_s: list[float] = []
    tries = []
    while due:
        clock.now_s, _, index, led_to = heapq.heappop(due)
        program = programs[index]
        try:
            is_error = isinstance(led_to, Exception)
            step = program.throw(led_to) if is_error else program.send(led_to)
        except StopIteration as end:
            tries.append(end.value.tries)
            continue
        except (ServerUnavailable, DeadlineExceeded):
            continue
        busy_until_s = [each for each in busy_until_s if each > clock.now_s]
        at_s = clock.now_s
        answer: Any = None
        if isinstance(step, Pause):
            at_s += step.seconds
        elif len(busy_until_s) < room:
            at_s, answer = at_s + work_s, "fine"
            busy_until_s.append(at_s)
        else:
            answer = refusal(min(busy_until_s) - at_s if is_told else 0.0, "overloaded")
        heapq.heappush(due, (at_s, next(order), index, answer))
    return tries


@pytest.mark.parametrize("wrong", [{"rounds": -1}, {"max_pause_s": float("nan")}, {"losses": -1}])
def test_retries_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="allowed: 0 or more"):
        Retries(**wrong)
