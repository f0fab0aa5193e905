"""The step engine: every program of every request shares batches, call by call.

One asyncio loop serves all. A turn of the engine: take the group of calls (same network, same
shapes) that holds the oldest waiting call, fill a batch from it in order of arrival up to the
network's limit, run it, and send every program its rows; their next calls join the groups.
Nothing ever waits while a network is free: a batch holds what is ready when its turn comes, and
what arrives meanwhile joins the next one, a step later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch

from preprocessing.plan import DeadlineExceededError
from sampling.program import Call, Program, Tensors

T = TypeVar("T")
log = logging.getLogger(__name__)

GroupKey = tuple[Any, ...]


class Networks(Protocol):
    """Runs one batch: tensors ``[rows, …]`` by name, in and out."""

    async def run(self, network: str, inputs: Tensors) -> Tensors: ...


@dataclass
class EngineStats:
    """Counters since the start."""

    batches: int = 0
    rows: int = 0
    rows_possible: int = 0
    """Rows the batches could have had: what waited, up to the limit."""
    shared_batches: int = 0
    """Batches with calls of more than one request."""


@dataclass
class _Live(Generic[T]):
    """A program under way."""

    program: Program[T]
    request: str
    deadline_s: float | None
    done: asyncio.Future[T]

    def is_late(self, now_s: float) -> bool:
        return self.deadline_s is not None and now_s > self.deadline_s


@dataclass
class _Waiting:
    """A call that a live program is waiting for."""

    live: _Live[Any]
    call: Call
    arrival: int


@dataclass
class StepEngine:
    """Drives programs to their ends in shared batches.

    Args:
        networks: runs the batches.
        max_batch: most rows per call, by network.
        in_flight: batches that may run at once; 1 on a CPU, whose cores one batch fills.

    To be used from one event loop; :meth:`serve` must be running there.
    """

    networks: Networks
    max_batch: Mapping[str, int]
    in_flight: int = 1
    stats: EngineStats = field(default_factory=EngineStats)
    _groups: dict[GroupKey, list[_Waiting]] = field(default_factory=dict)
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _arrivals: int = 0

    async def run(
        self, program: Program[T], *, request: str = "", deadline_s: float | None = None
    ) -> T:
        """Runs a program among all others and returns its result.

        Args:
            request: the request's id, for the log.
            deadline_s: ``time.time()`` after which its next call is not made any more.

        Raises:
            DeadlineExceededError: the deadline passed.
            Exception: whatever the program or one of its network calls raised. If the caller is
                cancelled, the program ends at its next turn.
        """
        live = _Live(program, request, deadline_s, asyncio.get_running_loop().create_future())
        self._advance(live, None)
        result: T = await live.done
        return result

    async def serve(self) -> None:
        """Runs batches until cancelled."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                await self._work.wait()
                # Let every task that is ready add its calls before the batch is closed.
                await asyncio.sleep(0)
                batch = self._take()
                if not batch:
                    self._work.clear()
                    continue
                running.add(asyncio.create_task(self._run_batch(batch)))
                if len(running) >= self.in_flight:
                    _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in running:
                task.cancel()

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
            waiting = _Waiting(live, call, self._arrivals)
            self._groups.setdefault(_group_key(call), []).append(waiting)
            self._work.set()

    def _take(self) -> list[_Waiting]:
        """The next batch: calls of the group with the oldest one, up to the network's limit."""
        self._drop_finished()
        if not self._groups:
            return []
        key = min(self._groups, key=lambda key: self._groups[key][0].arrival)
        group = self._groups.pop(key)
        limit = max(self.max_batch[group[0].call.network], group[0].call.rows)
        rows, count = 0, 0
        for waiting in group:
            if rows + waiting.call.rows > limit:
                break
            rows += waiting.call.rows
            count += 1
        batch, rest = group[:count], group[count:]
        if rest:
            self._groups[key] = rest
        waiting_rows = rows + sum(waiting.call.rows for waiting in rest)
        self._count(batch, rows, min(limit, waiting_rows))
        return batch

    def _drop_finished(self) -> None:
        """Forgets the calls of programs that are late or whose caller is gone."""
        now_s = time.time()
        for key, group in list(self._groups.items()):
            for waiting in group:
                live = waiting.live
                if not live.done.done() and live.is_late(now_s):
                    live.done.set_exception(DeadlineExceededError())
                if live.done.done():
                    live.program.close()
            kept = [waiting for waiting in group if not waiting.live.done.done()]
            if kept:
                self._groups[key] = kept
            else:
                del self._groups[key]

    def _count(self, batch: list[_Waiting], rows: int, possible: int) -> None:
        requests = {waiting.live.request for waiting in batch}
        self.stats.batches += 1
        self.stats.rows += rows
        self.stats.rows_possible += possible
        self.stats.shared_batches += len(requests) > 1

    async def _run_batch(self, batch: list[_Waiting]) -> None:
        network = batch[0].call.network
        start_s = time.perf_counter()
        try:
            outputs = await self.networks.run(network, _stack([each.call for each in batch]))
        except Exception as error:
            for waiting in batch:
                if not waiting.live.done.done():
                    waiting.live.done.set_exception(error)
            return
        log.debug(
            "batch network=%s rows=%d calls=%d requests=%d ms=%.1f",
            network,
            sum(waiting.call.rows for waiting in batch),
            len(batch),
            len({waiting.live.request for waiting in batch}),
            (time.perf_counter() - start_s) * 1e3,
        )
        start = 0
        for waiting in batch:
            end = start + waiting.call.rows
            self._advance(waiting.live, {name: out[start:end] for name, out in outputs.items()})
            start = end


def _group_key(call: Call) -> GroupKey:
    shapes = tuple(
        (name, tensor.shape[1:], tensor.dtype) for name, tensor in sorted(call.inputs.items())
    )
    return call.network, shapes


def _stack(calls: list[Call]) -> Tensors:
    if len(calls) == 1:
        return {name: tensor.contiguous() for name, tensor in calls[0].inputs.items()}
    return {name: torch.cat([call.inputs[name] for call in calls]) for name in calls[0].inputs}
