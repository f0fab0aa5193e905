"""Which requests are admitted."""

from __future__ import annotations

import pytest

from request_plan.limits import Limits
from request_plan.refusals import OverloadedError
from sampling.admission import Admission
from sampling.policy import Requester
from sampling.work import WorkEstimate


def admission(queue_s: float = 1e9, slowdown: float | None = None) -> Admission:
    return Admission(Limits(max_queue_s=queue_s, max_slowdown=slowdown))


def cpu_work(seconds: float) -> WorkEstimate:
    return WorkEstimate(alone_s=seconds, shared_s=seconds)


def gpu_work(seconds: float) -> WorkEstimate:
    """An eighth of it where eight share a batch."""
    return WorkEstimate(alone_s=seconds, shared_s=seconds / 8)


def test_work_beyond_the_queue_is_refused_with_a_hint() -> None:
    queue = admission(queue_s=10)
    queue.admit(Requester(), cpu_work(6), 1, 0)
    with pytest.raises(OverloadedError, match=r"try again in 2\.0 s") as refused:
        queue.admit(Requester(), cpu_work(6), 1, 0)
    assert refused.value.retry_after_s == pytest.approx(2)
    queue.admit(Requester(), cpu_work(4), 1, 0)
    assert queue.queued_s == pytest.approx(10)
    assert queue.refused == 1


def test_alone_even_the_largest_gets_in() -> None:
    admission(queue_s=1).admit(Requester(), cpu_work(100), 1, 0)


def test_work_that_is_done_makes_room() -> None:
    queue = admission(queue_s=10)
    first = Requester()
    queue.admit(first, cpu_work(9), 1, 0)
    first.charge(5)
    queue.admit(Requester(), cpu_work(6), 1, 5)


def test_who_leaves_makes_room() -> None:
    queue = admission(queue_s=10)
    first = Requester()
    queue.admit(first, cpu_work(9), 1, 0)
    with pytest.raises(OverloadedError):
        queue.admit(Requester(), cpu_work(9), 1, 0)
    queue.leave(first)
    queue.admit(Requester(), cpu_work(9), 1, 0)


def test_memory_of_all_is_bounded() -> None:
    gib = 1 << 30
    queue = Admission(Limits(max_memory_bytes=6 * gib))
    first = Requester()
    queue.admit(first, None, 4 * gib, 0)
    with pytest.raises(OverloadedError):
        queue.admit(Requester(), None, 3 * gib, 0)
    queue.admit(Requester(), None, 2 * gib, 0)
    queue.leave(first)
    queue.admit(Requester(), None, 3 * gib, 0)


def test_nobody_is_slowed_down_beyond_the_bound() -> None:
    queue = admission(slowdown=3)
    for _ in range(3):
        queue.admit(Requester(), cpu_work(1), 1, 0)
    with pytest.raises(OverloadedError):
        queue.admit(Requester(), cpu_work(1), 1, 0)


def test_a_small_request_is_let_in_beside_a_large_one() -> None:
    """The device is shared in equal parts: beside one large request it takes twice its time."""
    queue = admission(slowdown=2.5)
    queue.admit(Requester(), cpu_work(100), 1, 0)
    queue.admit(Requester(), cpu_work(1), 1, 0)
    with pytest.raises(OverloadedError):
        queue.admit(Requester(), cpu_work(1), 1, 0)


def test_where_batches_are_free_eight_are_not_slower_than_one() -> None:
    queue = admission(slowdown=1.1)
    for _ in range(8):
        queue.admit(Requester(), gpu_work(1), 1, 0)
    with pytest.raises(OverloadedError):
        queue.admit(Requester(), gpu_work(1), 1, 0)


def test_who_came_before_counts_with_the_time_it_has_had() -> None:
    queue = admission(slowdown=2)
    first = Requester()
    queue.admit(first, cpu_work(1), 1, 0)
    first.charge(0.5)
    with pytest.raises(OverloadedError):
        queue.admit(Requester(), cpu_work(1), 1, 1.6)
