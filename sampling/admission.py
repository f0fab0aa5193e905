"""Which requests the step engine admits: bounded by estimated work, memory, and slowdown."""

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
        """Device seconds it still needs."""
        return max(self.work.shared_s - self.requester.device_s, 0.0)


@dataclass
class Admission:
    """The requests under way.

    Args:
        limits: ``max_queue_s``, ``max_slowdown`` and ``max_memory_bytes`` of it;
            a request that finds nothing else under way is let in whatever it needs.
    """

    limits: Limits
    refused: int = 0
    """Since the start."""
    closed: bool = False
    """Whether nobody is let in any more."""
    _admitted: dict[Requester, _Admitted] = field(default_factory=dict)

    def admit(
        self, requester: Requester, work: WorkEstimate | None, memory_bytes: int, now_s: float
    ) -> None:
        """Lets a request in; :meth:`leave` has to follow. Work of None is not known and counts as
        none.

        Raises:
            OverloadedError: it would be too much.
            StoppingError: it is closed.
        """
        if self.closed:
            self.refused += 1
            raise StoppingError
        asked = _Admitted(requester, work or WorkEstimate(0.0, 0.0), memory_bytes, now_s)
        refusal = self._refusal(asked, now_s)
        if refusal is not None:
            self.refused += 1
            raise refusal
        self._admitted[requester] = asked

    def standing(self, requester: Requester) -> tuple[int, float | None]:
        """How many requests under way came before one that was let in, and how long it still takes
        among them by estimate; None where its work is not known."""
        asked = self._admitted[requester]
        everyone = list(self._admitted.values())
        known = asked.work.alone_s > 0
        return everyone.index(asked), _left_s(asked, everyone) if known else None

    def leave(self, requester: Requester) -> None:
        """The request is done, however it ended."""
        self._admitted.pop(requester, None)

    def __len__(self) -> int:
        """Requests under way."""
        return len(self._admitted)

    @property
    def queued_s(self) -> float:
        """Estimated device seconds until all requests under way are done."""
        return sum(each.left_s for each in self._admitted.values())

    def _refusal(self, asked: _Admitted, now_s: float) -> OverloadedError | None:
        """None if there is room; else the limit, and for how long, by estimate, there is none."""
        if not self._admitted:
            return None
        shortest_s = min(each.left_s for each in self._admitted.values())
        held_bytes = sum(each.memory_bytes for each in self._admitted.values())
        if held_bytes + asked.memory_bytes > self.limits.max_memory_bytes:
            return OverloadedError(shortest_s, "max_memory_bytes")
        over_s = self.queued_s + asked.work.shared_s - self.limits.max_queue_s
        if over_s > 0:
            return OverloadedError(min(over_s, self.queued_s), "max_queue_s")
        slowdown = self.limits.max_slowdown
        if slowdown is not None and self._is_too_slow(asked, now_s, slowdown):
            return OverloadedError(shortest_s, "max_slowdown")
        return None

    def _is_too_slow(self, asked: _Admitted, now_s: float, max_slowdown: float) -> bool:
        """Whether anybody, the newcomer included, would take longer than allowed."""
        everyone = [*self._admitted.values(), asked]
        for one in everyone:
            if one.work.alone_s == 0:
                continue
            left_s = _left_s(one, everyone)
            if now_s - one.since_s + left_s > max_slowdown * one.work.alone_s:
                return True
        return False


def _left_s(one: _Admitted, everyone: list[_Admitted]) -> float:
    """How long a request still takes among the others.

    The device goes to all in equal parts, by their weight, so each of the others takes at most
    as much of it meanwhile as the request itself; but where batches have room for all, none of it
    takes longer than alone.
    """
    if one.left_s == 0:
        return 0.0
    alone_s = one.work.alone_s * one.left_s / one.work.shared_s
    shared_s = one.left_s
    for other in everyone:
        if other is not one:
            part = one.left_s * other.requester.weight / one.requester.weight
            shared_s += min(other.left_s, part)
    return max(alone_s, shared_s)
