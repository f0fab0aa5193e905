"""The step engine: every program of every request shares batches, call by call.

One asyncio loop serves all. A turn of the engine: choose a batch of waiting calls
(:mod:`sampling.policy`), run it, and send every program its rows; their next calls join the
groups. What arrives meanwhile joins the next batch, a step later.
"""

from __future__ import annotations

import asyncio
import logging
import operator
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, cast

import torch

from preprocessing.plan import DeadlineExceededError, StoppingError
from sampling.costs import CostModel
from sampling.flight import Flight
from sampling.policy import BatchLimit, Requester, choose_batch, leading_call
from sampling.program import Call, Program, Tensors

T = TypeVar("T")
log = logging.getLogger(__name__)

GroupKey = tuple[Any, ...]
_KEPT_GROUPS = 4
"""Groups whose last inputs are kept: those that take turns, not all that ever were."""


class Networks(Protocol):
    """Runs one batch: tensors ``[rows, …]`` by name, in and out."""

    async def run(self, network: str, inputs: Tensors) -> Tensors: ...


@dataclass(frozen=True)
class OnDevice:
    """Networks whose answers are brought to one device, where they are not there already: those
    of two pipelines on two devices meet in one SEG."""

    networks: Networks
    device: torch.device

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        """One batch."""
        outputs = await self.networks.run(network, inputs)
        return {name: tensor.to(self.device) for name, tensor in outputs.items()}


@dataclass
class EngineStats:
    """Counters since the start."""

    batches: int = 0
    rows: int = 0
    rows_possible: int = 0
    """Rows the batches could have had: what waited, up to the limit."""
    shared_batches: int = 0
    """Batches with calls of more than one request."""


@dataclass(eq=False)
class _Live(Generic[T]):
    """A program under way."""

    program: Program[T]
    requester: Requester
    done: asyncio.Future[T]


@dataclass(eq=False)
class _Waiting:
    """A call that a live program is waiting for."""

    live: _Live[Any]
    call: Call
    group: GroupKey
    arrival: int

    @property
    def requester(self) -> Requester:
        return self.live.requester


@dataclass
class StepEngine:
    """Drives programs to their ends in shared batches.

    Args:
        networks: runs the batches.
        limits: how many rows a network takes at once, by its name.
        in_flight: batches that may be under way at once. A second one is sent only if it is full,
            so that the device has work while the first one's rows are handed out, and nobody
            misses a batch that he could have joined.

    To be used from one event loop; :meth:`serve` must be running there.
    """

    networks: Networks
    limits: Mapping[str, BatchLimit]
    in_flight: int = 2
    stats: EngineStats = field(default_factory=EngineStats)
    costs: CostModel = field(default_factory=CostModel)
    _stacker: _Stacker = field(default_factory=lambda: _Stacker())
    _groups: dict[GroupKey, list[_Waiting]] = field(default_factory=dict)
    _active: set[Requester] = field(default_factory=set)
    _turn_s: float = 0.0
    """Where the least served requester stands, or stood last."""
    _last_end_s: float = 0.0
    _running: dict[asyncio.Task[None], Flight] = field(default_factory=dict)
    _live: set[_Live[Any]] = field(default_factory=set)
    _closed: bool = False
    _arrivals: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a call has come or a batch has ended."""

    async def run(self, program: Program[T], requester: Requester | None = None) -> T:
        """Runs a program among all others and returns its result.

        Args:
            requester: whom the work is for; None counts as one of its own.

        Raises:
            DeadlineExceededError: the requester's deadline passed.
            StoppingError: the engine was closed.
            Exception: whatever the program or one of its network calls raised. If the caller is
                cancelled, the program ends at its next turn.
        """
        if self._closed:
            program.close()
            raise StoppingError
        requester = requester or Requester()
        live = _Live(program, requester, asyncio.get_running_loop().create_future())
        self._enter(requester)
        self._live.add(live)
        try:
            self._advance(live, None)
            result: T = await live.done
            return result
        finally:
            self._live.discard(live)
            self._leave(requester)

    def close(self) -> None:
        """Ends every program, and those to come, with :class:`StoppingError`."""
        self._closed = True
        for live in self._live:
            if not live.done.done():
                live.done.set_exception(StoppingError())
        self._changed.set()

    async def serve(self) -> None:
        """Runs batches until cancelled."""
        try:
            while True:
                await self._changed.wait()
                # Let every task that is ready add its calls before the batch is closed.
                await asyncio.sleep(0)
                self._changed.clear()
                while len(self._running) < self.in_flight:
                    batch = self._take(full_only=bool(self._running))
                    if not batch:
                        break
                    self._running[asyncio.create_task(self._run_batch(batch))] = self._flight(batch)
        finally:
            for task in self._running:
                task.cancel()
            self.close()

    @property
    def flights(self) -> list[Flight]:
        """The batches under way."""
        return list(self._running.values())

    def _flight(self, batch: list[_Waiting]) -> Flight:
        call, rows = batch[0].call, _rows(batch)
        expected_s = self.costs.known_batch_s(call.network, rows * call.row_elements)
        return Flight(call.network, rows, time.time(), expected_s)

    def _enter(self, requester: Requester) -> None:
        if requester.live == 0:
            requester.turn_s = max(requester.turn_s, self._turn_s)
            self._active.add(requester)
        requester.live += 1

    def _leave(self, requester: Requester) -> None:
        requester.live -= 1
        if requester.live == 0:
            self._active.discard(requester)

    def _advance(self, live: _Live[Any], outputs: Tensors | None) -> None:
        """Sends a program its outputs (None: starts it) and queues its next call."""
        if live.done.done():
            live.program.close()
            return
        try:
            call = next(live.program) if outputs is None else live.program.send(outputs)
        except StopIteration as end:
            live.done.set_result(end.value)
        except Exception as error:  # one program's fault is its own
            live.done.set_exception(error)
        else:
            self._arrivals += 1
            waiting = _Waiting(live, call, _group_key(call), self._arrivals)
            self._groups.setdefault(waiting.group, []).append(waiting)
            self._changed.set()

    def _take(self, *, full_only: bool) -> list[_Waiting]:
        """The next batch, out of its group; none where it has to be full and is not."""
        self._drop_finished()
        if not self._groups:
            return []
        leader = leading_call(each for group in self._groups.values() for each in group)
        group = self._groups[leader.group]
        batch = choose_batch(group, leader, self.limits, self.costs, self._active)
        taken = set(batch)
        rest = [waiting for waiting in group if waiting not in taken]
        if full_only and _rows(batch) + leader.call.rows <= self._limit(leader.call):
            return []
        if rest:
            self._groups[leader.group] = rest
        else:
            del self._groups[leader.group]
        self._turn_s = max(self._turn_s, leader.requester.turn_s)
        self._count(batch, rest)
        return batch

    def _limit(self, call: Call) -> int:
        return self.limits[call.network].batch_limit(call.row_shape)

    def _drop_finished(self) -> None:
        """Forgets the calls of programs that are late or whose caller is gone."""
        now_s = time.time()
        for key, group in list(self._groups.items()):
            for waiting in group:
                live = waiting.live
                if not live.done.done() and live.requester.is_late(now_s):
                    live.done.set_exception(DeadlineExceededError())
                if live.done.done():
                    live.program.close()
            kept = [waiting for waiting in group if not waiting.live.done.done()]
            if kept:
                self._groups[key] = kept
            else:
                del self._groups[key]

    def _count(self, batch: list[_Waiting], rest: list[_Waiting]) -> None:
        rows = _rows(batch)
        limit = max(self._limit(batch[0].call), rows)
        self.stats.batches += 1
        self.stats.rows += rows
        self.stats.rows_possible += min(limit, rows + _rows(rest))
        self.stats.shared_batches += len({waiting.requester for waiting in batch}) > 1

    async def _run_batch(self, batch: list[_Waiting]) -> None:
        start_s = time.perf_counter()
        try:
            inputs = self._stacker.stack(batch[0].group, [waiting.call for waiting in batch])
            outputs = await self._run_rows(batch[0].call, inputs)
        except Exception as error:
            await self._run_apart(batch, error)
            return
        finally:
            # Here, not in a callback of the task: that may come after serve has looked.
            self._running.pop(cast("asyncio.Task[None]", asyncio.current_task()))
            self._changed.set()
        # A batch that was sent while another one ran has waited for that one's end.
        end_s = time.perf_counter()
        self._book(batch, end_s - max(start_s, self._last_end_s))
        self._last_end_s = end_s
        start = 0
        for waiting in batch:
            end = start + waiting.call.rows
            self._advance(waiting.live, {name: out[start:end] for name, out in outputs.items()})
            start = end

    async def _run_apart(self, batch: list[_Waiting], error: Exception) -> None:
        """What a failed batch leaves: each call again by itself, so that one request's fault is
        its own; a call that was by itself has failed."""
        for waiting in batch:
            live, call = waiting.live, waiting.call
            if live.done.done():
                continue
            if len(batch) == 1:
                live.done.set_exception(error)
                continue
            try:
                outputs = await self._run_rows(call, call.inputs)
            except Exception as own:
                if not live.done.done():
                    live.done.set_exception(own)
            else:
                self._advance(live, outputs)

    async def _run_rows(self, call: Call, inputs: Tensors) -> Tensors:
        """A batch; one call with more rows than its network takes goes in parts."""
        limit = self._limit(call)
        rows = len(next(iter(inputs.values())))
        if rows <= limit:
            return await self.networks.run(call.network, inputs)
        parts = [
            await self.networks.run(
                call.network, {name: tensor[i : i + limit] for name, tensor in inputs.items()}
            )
            for i in range(0, rows, limit)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _book(self, batch: list[_Waiting], seconds: float) -> None:
        """Learns what a batch cost and charges those who had it."""
        call, rows = batch[0].call, _rows(batch)
        self.costs.observe(call.network, rows * call.row_elements, seconds)
        for waiting in batch:
            waiting.requester.charge(seconds * waiting.call.rows / rows)
        log.debug(
            "batch network=%s rows=%d calls=%d requests=%d ms=%.1f",
            call.network,
            rows,
            len(batch),
            len({waiting.requester for waiting in batch}),
            seconds * 1e3,
        )


def _rows(waiting: Iterable[_Waiting]) -> int:
    return sum(each.call.rows for each in waiting)


def _group_key(call: Call) -> GroupKey:
    shapes = tuple(
        (name, tensor.shape[1:], tensor.dtype) for name, tensor in sorted(call.inputs.items())
    )
    return call.network, shapes


class _Stacker:
    """Joins the inputs of a batch's calls, row below row.

    What a run tells its network at every step (texts, hints) are the same tensors each time; while
    a group's batch stays the same they are joined once, and stay where they are.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[GroupKey, dict[str, tuple[list[torch.Tensor], torch.Tensor]]] = (
            OrderedDict()
        )

    def stack(self, group: GroupKey, calls: list[Call]) -> Tensors:
        """The inputs by name, ``[rows of all calls, …]``."""
        last = self._kept.pop(group, {})
        joined = {}
        for name in calls[0].inputs:
            parts = [call.inputs[name] for call in calls]
            known, tensor = last.get(name, ([], torch.empty(0)))
            if len(known) != len(parts) or any(map(operator.is_not, known, parts)):
                tensor = torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()
            joined[name] = parts, tensor
        self._kept[group] = joined
        if len(self._kept) > _KEPT_GROUPS:
            self._kept.popitem(last=False)
        return {name: tensor for name, (_, tensor) in joined.items()}
