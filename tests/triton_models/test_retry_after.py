"""When refused callers should come again."""

from __future__ import annotations

import pytest

from triton_models.retry_after import FLOOR_S, MOST_S, RetryAfter


class Clock:
    """A clock that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("room_s", [-5.0, 0.0, 0.1])
def test_no_time_is_below_the_floor(clock: Clock, room_s: float) -> None:
    assert RetryAfter(clock, lambda: 0.0)(room_s, 1.0) == FLOOR_S
    assert RetryAfter(clock, lambda: 0.0).spread(room_s) == FLOOR_S


def test_times_are_spread_upwards_by_a_quarter(clock: Clock) -> None:
    assert RetryAfter(clock, lambda: 0.0)(8.0, 1.0) == 8.0
    assert RetryAfter(clock, lambda: 1.0)(8.0, 1.0) == 10.0
    assert RetryAfter(clock, lambda: 0.5).spread(8.0) == 9.0


def test_by_default_the_spread_is_random(clock: Clock) -> None:
    after = RetryAfter(clock)
    times_s = [after.spread(8.0) for _ in range(50)]
    assert len(set(times_s)) > 1
    assert all(8.0 <= each <= 10.0 for each in times_s)


def test_those_refused_before_are_counted_until_they_are_due(clock: Clock) -> None:
    after = RetryAfter(clock, lambda: 0.0)
    assert [after(4.0, 2.0) for _ in range(3)] == [4.0, 6.0, 8.0]
    clock.now_s += 4.0  # the first one is due
    assert after(4.0, 2.0) == 8.0
    clock.now_s += 100.0
    assert after(4.0, 2.0) == 4.0


def test_a_crowd_that_is_not_measured_yet_is_spread_all_the_same(clock: Clock) -> None:
    after = RetryAfter(clock, lambda: 0.0)
    assert [after(0.0, 0.0) for _ in range(3)] == [FLOOR_S] * 3


def test_there_is_an_upper_bound(clock: Clock) -> None:
    after = RetryAfter(clock, lambda: 1.0)
    assert after(1e9, 1.0) == MOST_S
    assert [after(1.0, 100.0) for _ in range(20)][-1] == MOST_S


def test_a_flood_of_refusals_takes_bounded_memory(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triton_models.retry_after._MOST_TOLD", 10)
    after = RetryAfter(clock, lambda: 0.0)
    times_s = [after(1.0, 1.0) for _ in range(50)]
    assert times_s[-1] == times_s[10] == 11.0
