"""Admission of requests to the step engine, bounded by estimated work, memory and slowdown."""

from __future__ import annotations

from dataclasses import dataclass, field

from request_plan.limits import Limits
from request_plan.refusals import OverloadedError, StoppingError
from sampling.policy import Requester
from sampling.work import WorkEstimate


@dataclass(eq=False)
class _Admitted:
    requester: Requester
    work: WorkEstimate
    memory_bytes: int
    since_s: float

    @property
    def left_s(self) -> float:
        """Device seconds that the request still needs."""
        return max(self.work.shared_s - self.requester.device_s, 0.0)


@dataclass
class Admission:
    """The admitted requests.

    Args:
        limits: ``max_queue_s``, ``max_slowdown`` and ``max_memory_bytes`` are used. If no other
            request is admitted, a request is admitted whatever it needs.
    """

    limits: Limits
    refused: int = 0
    """Requests refused since the start."""
    closed: bool = False
    """If true, every further request is refused."""
    _admitted: dict[Requester, _Admitted] = field(default_factory=dict)

    def admit(
        self, requester: Requester, work: WorkEstimate | None, memory_bytes: int, now_s: float
    ) -> None:
        """Admits a request; :meth:`leave` has to follow. Unknown work (None) counts as 0.

        Raises:
            OverloadedError: a limit would be exceeded.
            StoppingError: the admission is closed.
        """
        if self.closed:
            self.refused += 1
            raise StoppingError
        candidate = _Admitted(requester, work or WorkEstimate(0.0, 0.0), memory_bytes, now_s)
        refusal = self._refusal(candidate, now_s)
        if refusal is not None:
            self.refused += 1
            raise refusal
        self._admitted[requester] = candidate

    def standing(self, requester: Requester) -> tuple[int, float | None]:
        """The number of requests admitted before this one, and the estimated seconds until this one
        ends; None if its work is not known."""
        admitted = self._admitted[requester]
        requests = list(self._admitted.values())
        known = admitted.work.alone_s > 0
        return requests.index(admitted), _left_s(admitted, requests) if known else None

    def leave(self, requester: Requester) -> None:
        """Removes a request that has ended."""
        self._admitted.pop(requester, None)

    def __len__(self) -> int:
        return len(self._admitted)

    @property
    def queued_s(self) -> float:
        """Estimated device seconds until all admitted requests end."""
        return sum(each.left_s for each in self._admitted.values())

    def _refusal(self, candidate: _Admitted, now_s: float) -> OverloadedError | None:
        """The exceeded limit and the estimated seconds until it is not; None if there is room."""
        if not self._admitted:
            return None
        shortest_s = min(each.left_s for each in self._admitted.values())
        held_bytes = sum(each.memory_bytes for each in self._admitted.values())
        if held_bytes + candidate.memory_bytes > self.limits.max_memory_bytes:
            return OverloadedError(shortest_s, "max_memory_bytes")
        over_s = self.queued_s + candidate.work.shared_s - self.limits.max_queue_s
        if over_s > 0:
            return OverloadedError(min(over_s, self.queued_s), "max_queue_s")
        slowdown = self.limits.max_slowdown
        if slowdown is not None and self._is_too_slow(candidate, now_s, slowdown):
            return OverloadedError(shortest_s, "max_slowdown")
        return None

    def _is_too_slow(self, candidate: _Admitted, now_s: float, max_slowdown: float) -> bool:
        """Whether any request, the candidate included, would take longer than allowed."""
        requests = [*self._admitted.values(), candidate]
        for one in requests:
            if one.work.alone_s == 0:
                continue
            left_s = _left_s(one, requests)
            if now_s - one.since_s + left_s > max_slowdown * one.work.alone_s:
                return True
        return False


def _left_s(one: _Admitted, requests: list[_Admitted]) -> float:
    """Estimated seconds until one of the requests ends.

    The device is shared in proportion to the weights, so another request of the same weight uses at
    most as much of it in this time as the request itself. If batches have room for all, the request
    takes no longer than alone.
    """
    if one.left_s == 0:
        return 0.0
    alone_s = one.work.alone_s * one.left_s / one.work.shared_s
    shared_s = one.left_s
    for other in requests:
        if other is not one:
            part = one.left_s * other.requester.weight / one.requester.weight
            shared_s += min(other.left_s, part)
    return max(alone_s, shared_s)
