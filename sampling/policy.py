"""The step engine's policy: whose turn it is, and who shares the batch.

1. *Groups.* Calls of one network with the same shapes (latent size, sequence length) can share a
   batch; nobody else can.
2. *Whose turn.* The requester that has used the device least, its priority weighed in, leads: its
   oldest call's group is run. Who comes new starts level with the least served, so nobody can
   save up time and nobody is starved.
3. *Who joins.* One call of every requester in the group, the least served first, then a second of
   each and so on, until the network's limit is reached; calls beyond each one's first only while
   the batch keeps the leader no longer than its fair share of the device: with n equal requesters,
   n times its call alone. Where a row costs
   nothing, as on a GPU that is not full, all join at once; where each row costs its time, as on a
   CPU, a request of 60 segments cannot slow down one of a single segment by more than a second
   request of one would.
4. *Nothing waits* while a network is free: a batch holds what is ready when its turn comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from sampling.costs import CostModel
from sampling.program import NetworkCall

_ALONE_SHARE = 2.0
"""A lone requester's batches may take so many times its call alone: who comes next waits for one
of them. Where rows cost their time, more of them gain little."""
_TOLERANCE = 1.25
"""Of the fair share, for measurements that are never exact."""


class BatchLimit(Protocol):
    """How many rows a network takes at once."""

    def batch_limit(self, row_shape: Sequence[int]) -> int: ...


@dataclass(eq=False)
class Requester:
    """Who asks for work: a request, and what it has had of the device.

    ``deadline_s`` is the ``time.time()`` after which its calls are not made any more; ``weight``
    its priority: twice the weight, twice the device.
    """

    request_id: str = ""
    deadline_s: float | None = None
    weight: float = 1.0
    device_s: float = field(default=0.0, init=False)
    """Its share of all batches' seconds so far."""
    turn_s: float = field(default=0.0, init=False)
    """The same over its weight, counted from where the others were when it came."""
    live: int = field(default=0, init=False)
    """Programs under way."""

    def is_late(self, now_s: float) -> bool:
        return self.deadline_s is not None and now_s > self.deadline_s

    def charge(self, seconds: float) -> None:
        """Books a share of a batch."""
        self.device_s += seconds
        self.turn_s += seconds / self.weight


class Waiting(Protocol):
    """A call that waits for its batch."""

    @property
    def requester(self) -> Requester: ...

    @property
    def call(self) -> NetworkCall: ...

    @property
    def arrival(self) -> int: ...


W = TypeVar("W", bound=Waiting)


def leading_call(heads: Iterable[W]) -> W:
    """Of the oldest calls of all requesters and groups, the one whose turn it is."""
    return min(heads, key=lambda each: (each.requester.turn_s, each.arrival))


def choose_batch(
    group: Sequence[W],
    leader: W,
    limits: Mapping[str, BatchLimit],
    costs: CostModel,
    active: Iterable[Requester],
) -> list[W]:
    """The calls of a group that share the next batch, the leader's first.

    Args:
        group: in order of arrival.
        active: every requester with work under way, in this group or not.
    """
    network = leader.call.network
    limit = limits[network].batch_limit(leader.call.row_shape)
    known = costs.batch_s(network, leader.call.elements)
    if known is None:
        return [leader]  # the first batch of a network tells what its rows cost
    weights = {requester: requester.weight for requester in active}
    share = sum(weights.values()) / leader.requester.weight
    allowed_s = known * (share if len(weights) > 1 else _ALONE_SHARE) * _TOLERANCE
    chosen, rows = [leader], leader.call.rows
    for nth, waiting in _in_turns(group, leader):
        more = rows + waiting.call.rows
        due = nth == 0 and waiting.requester.weight >= leader.requester.weight
        batch_s = costs.batch_s(network, more * leader.call.row_elements) or 0.0
        if more > limit or (batch_s > allowed_s and not due):
            break
        chosen.append(waiting)
        rows = more
    return chosen


def _in_turns(group: Sequence[W], leader: W) -> list[tuple[int, W]]:
    """A group's other calls: one of each requester, the least served first, then a second…, each
    with how many of the same requester go before."""
    seen: dict[Requester, int] = {leader.requester: 1}
    ranked = []
    for waiting in group:
        if waiting is leader:
            continue
        nth = seen.get(waiting.requester, 0)
        seen[waiting.requester] = nth + 1
        ranked.append((nth, waiting.requester.turn_s, waiting.arrival, waiting))
    ranked.sort(key=lambda each: each[:3])
    return [(nth, waiting) for nth, *_, waiting in ranked]
