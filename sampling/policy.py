"""The step engine's policy: which requester leads, and which calls share its batch.

1. *Groups.* Only calls of one network with the same shapes (latent size, sequence length) can share
   a batch.
2. *Leader.* The requester with the least device time, divided by its weight, leads: the group of
   its oldest call is run. A new requester starts level with the least served, so that no requester
   saves up time and none is starved.
3. *Joining calls.* One call of every requester in the group, the least served first, then a second
   of each and so on, up to the network's limit. Calls beyond each requester's first join only while
   the batch takes no longer than the leader's fair share: with n equal requesters, n times its call
   alone. If further rows cost nothing, as on a GPU that is not full, all join. If each row costs
   its time, as on a CPU, a request of 60 segments slows down one of a single segment no more than
   another request of a single segment would.
4. *No waiting* while a network is free: a batch contains the calls that are ready at its start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from sampling.costs import CostModel
from sampling.program import NetworkCall

_ALONE_SHARE = 2.0
"""A single requester's batches may take this many times its call alone: the next requester waits
for one of them. If rows cost their time, larger batches gain little."""
_TOLERANCE = 1.25
"""Factor on the fair share, because measurements are not exact."""


class BatchLimit(Protocol):
    """How many rows a network takes at once."""

    def batch_limit(self, row_shape: Sequence[int]) -> int: ...


@dataclass(eq=False)
class Requester:
    """A request as the engine counts it, with its use of the device.

    ``deadline_s`` is the ``time.time()`` after which its calls are not run any more. Twice the
    ``weight`` gets twice the device time.
    """

    request_id: str = ""
    deadline_s: float | None = None
    weight: float = 1.0
    device_s: float = field(default=0.0, init=False)
    """Its share of all batches' seconds so far."""
    turn_s: float = field(default=0.0, init=False)
    """Device seconds over the weight, starting at the level of the least served requester."""
    live: int = field(default=0, init=False)
    """Running programs."""

    def is_late(self, now_s: float) -> bool:
        return self.deadline_s is not None and now_s > self.deadline_s

    def charge(self, seconds: float) -> None:
        """Adds a share of a batch's seconds."""
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
    """The next call to run: the oldest of the least served requester."""
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
        active: every requester with running programs, in this group or not.
    """
    network = leader.call.network
    limit = limits[network].batch_limit(leader.call.row_shape)
    known = costs.batch_s(network, leader.call.elements)
    if known is None:
        return [leader]  # the first batch of a network measures what its rows cost
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
    with the number of earlier calls of the same requester."""
    counts: dict[Requester, int] = {leader.requester: 1}
    ranked = []
    for waiting in group:
        if waiting is leader:
            continue
        nth = counts.get(waiting.requester, 0)
        counts[waiting.requester] = nth + 1
        ranked.append((nth, waiting.requester.turn_s, waiting.arrival, waiting))
    ranked.sort(key=lambda each: each[:3])
    return [(nth, waiting) for nth, *_, waiting in ranked]
