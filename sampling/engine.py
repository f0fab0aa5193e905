"""The step engine: every program of every request shares batches, call by call.

One asyncio loop runs all programs. A turn of the engine: choose a batch of waiting calls
(:mod:`sampling.policy`), run it, and send every program its rows; their next calls join the
groups. Calls that arrive during a batch join the next one.

A fault ends only the program that has it. Each call of a failed batch is run again by itself. Rows
that are not finite end their own program at its next step, so that no step waits for the device.
An error of the engine ends the calls concerned, not the loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, cast

import torch

from request_plan.refusals import DeadlineExceededError, StoppingError, UnavailableError
from sampling.costs import CostModel
from sampling.faults import AnswerError
from sampling.flight import Flight
from sampling.live import GroupKey, LiveProgram, WaitingCall, group_key
from sampling.policy import BatchLimit, Requester, choose_batch, leading_call
from sampling.program import NetworkCall, Program, Tensors
from sampling.progress import BatchListener, BatchTiming
from sampling.rows import CallOutputs, Stacker, check_shapes, hand_out
from sampling.statistics import EngineStats

T = TypeVar("T")
log = logging.getLogger(__name__)


class Networks(Protocol):
    """Runs one batch: tensors ``[rows, …]`` by name, in and out."""

    async def run(self, network: str, inputs: Tensors) -> Tensors: ...


@dataclass(frozen=True)
class OnDevice:
    """Networks whose outputs are moved to one device: a SEG may use two pipelines on two
    devices."""

    networks: Networks
    device: torch.device

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        outputs = await self.networks.run(network, inputs)
        return {name: tensor.to(self.device) for name, tensor in outputs.items()}


@dataclass
class StepEngine:
    """Drives programs to their ends in shared batches.

    Args:
        networks: runs the batches.
        limits: how many rows a network takes at once, by its name.
        in_flight: batches that may run at once. A second one is sent only if it is full, so that
            the device has work while the first one's rows are handed out, and no call misses a
            batch that it could have joined.

    To be used from one event loop; :meth:`serve` must be running there.
    """

    networks: Networks
    limits: Mapping[str, BatchLimit]
    in_flight: int = 2
    stats: EngineStats = field(default_factory=EngineStats)
    costs: CostModel = field(default_factory=CostModel)
    _stacker: Stacker = field(default_factory=Stacker)
    _groups: dict[GroupKey, list[WaitingCall]] = field(default_factory=dict)
    _active: set[Requester] = field(default_factory=set)
    _turn_s: float = 0.0
    """``turn_s`` of the last leader: where a new requester starts."""
    _last_end_s: float = 0.0
    _running: dict[asyncio.Task[None], Flight] = field(default_factory=dict)
    _live: set[LiveProgram[Any]] = field(default_factory=set)
    _closed: bool = False
    _arrivals: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a call is queued or a batch has ended."""

    async def run(
        self,
        program: Program[T],
        requester: Requester | None = None,
        batch_listener: BatchListener | None = None,
    ) -> T:
        """Runs a program together with all others and returns its result.

        If the caller is cancelled, the program ends at its next turn.

        Args:
            requester: the request that the program belongs to; None: a new one.
            batch_listener: called for every batch that contains a call of the program.

        Raises:
            DeadlineExceededError: the requester's deadline passed.
            StoppingError: the engine was closed.
            Exception: raised by the program or by one of its network calls.
        """
        requester = requester or Requester()
        live = LiveProgram(
            program, requester, asyncio.get_running_loop().create_future(), batch_listener
        )
        if self._closed:
            live.close()
            raise StoppingError
        self._enter(requester)
        self._live.add(live)
        try:
            self._advance(live, None)
            result: T = await live.done
            return result
        except asyncio.CancelledError:
            self._changed.set()  # removes its call from the queue now
            raise
        finally:
            self._live.discard(live)
            self._leave(requester)

    def close(self) -> None:
        """Ends every present and future program with :class:`StoppingError`."""
        self._closed = True
        for live in list(self._live):
            live.fail(StoppingError())
        self._changed.set()

    async def serve(self) -> None:
        """Runs batches until cancelled; at its end, every program is ended."""
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
                    flight = self._flight(batch)
                    self._running[asyncio.create_task(self._run_batch(batch))] = flight
        finally:
            for task in self._running:
                task.cancel()
            self.close()

    @property
    def programs(self) -> int:
        """The number of running programs."""
        return len(self._live)

    @property
    def flights(self) -> list[Flight]:
        """The batches in flight."""
        return list(self._running.values())

    def _flight(self, batch: list[WaitingCall]) -> Flight:
        call, rows = batch[0].call, _rows(batch)
        expected_s = self.costs.known_batch_s(call.network, rows * call.row_elements)
        return Flight(call.network, rows, time.monotonic(), expected_s)

    def _enter(self, requester: Requester) -> None:
        if requester.live == 0:
            requester.turn_s = max(requester.turn_s, self._turn_s)
            self._active.add(requester)
        requester.live += 1

    def _leave(self, requester: Requester) -> None:
        requester.live -= 1
        if requester.live == 0:
            self._active.discard(requester)

    def _advance(self, live: LiveProgram[Any], part: CallOutputs | None) -> None:
        """Sends a program its rows (None: starts it) and queues its next call."""
        if live.done.done():
            live.close()
            return
        try:
            call = live.send(part)
            self._limit(call)  # raises if there is no such network or it does not take such rows
            self._arrivals += 1
            queued_ns = 0 if live.batch_listener is None else time.time_ns()
            self._queue(WaitingCall(live, call, group_key(call), self._arrivals, queued_ns))
        except StopIteration as end:
            live.end(end.value)
        except Exception as error:  # ends this program only
            live.fail(error)

    def _queue(self, waiting: WaitingCall) -> None:
        waiting.live.waiting = waiting
        self._groups.setdefault(waiting.group, []).append(waiting)
        self._changed.set()

    def _take(self, *, full_only: bool) -> list[WaitingCall]:
        """Removes the next batch from its group; empty if it has to be full and is not."""
        self._drop_finished()
        if not self._groups:
            return []
        leader = leading_call(each for group in self._groups.values() for each in group)
        group = self._groups[leader.group]
        try:
            batch = choose_batch(group, leader, self.limits, self.costs, self._active)
        except Exception as error:
            del self._groups[leader.group]
            self._give_up(group, error)
            return []
        taken = set(batch)
        rest = [waiting for waiting in group if waiting not in taken]
        if full_only and _rows(batch) + leader.call.rows <= self._limit(leader.call):
            return []
        if rest:
            self._groups[leader.group] = rest
        else:
            del self._groups[leader.group]
        self._turn_s = max(self._turn_s, leader.requester.turn_s)
        self._count(batch)
        return batch

    def _limit(self, call: NetworkCall) -> int:
        return self.limits[call.network].batch_limit(call.row_shape)

    def _drop_finished(self) -> None:
        """Removes the calls of programs that are late or cancelled."""
        now_s = time.time()
        for key, group in list(self._groups.items()):
            for waiting in group:
                if waiting.live.done.done():
                    waiting.live.close()
                elif waiting.requester.is_late(now_s):
                    waiting.live.fail(DeadlineExceededError())
            kept = [waiting for waiting in group if not waiting.live.done.done()]
            if kept:
                self._groups[key] = kept
            else:
                del self._groups[key]

    def _count(self, batch: list[WaitingCall]) -> None:
        call, requests = batch[0].call, len({waiting.requester for waiting in batch})
        self.stats.began(call.network, call.row_shape, _rows(batch), requests, self._limit(call))

    async def _run_batch(self, batch: list[WaitingCall]) -> None:
        try:
            await self._answer(batch)
        except Exception as error:
            self._give_up(batch, error)
        finally:
            # Here, not in a callback of the task: that may run after serve has checked.
            self._running.pop(cast("asyncio.Task[None]", asyncio.current_task()))
            self._changed.set()

    async def _answer(self, batch: list[WaitingCall]) -> None:
        """Runs a batch and sends every program its rows."""
        start_s, start_ns = time.perf_counter(), time.time_ns()
        parts = await self._outputs(batch)
        seconds = self._charge(batch, start_s)
        _notify(batch, start_ns, answered=not isinstance(parts, Exception))
        if isinstance(parts, Exception):
            self._queue_apart(batch, parts)
            return
        self._observe(batch, seconds)
        for waiting, part in zip(batch, parts, strict=True):
            self._advance(waiting.live, part)

    async def _outputs(self, batch: list[WaitingCall]) -> list[CallOutputs] | Exception:
        """Each call's rows of the network's outputs, or the error."""
        calls = [waiting.call for waiting in batch]
        try:
            inputs = self._stacker.stack(batch[0].group, calls)
            return list(hand_out(calls, await self._run_rows(calls[0], inputs)))
        except asyncio.CancelledError:
            if self._closed:
                raise
            return AnswerError(f"{calls[0].network}: the call was cancelled")
        except Exception as error:
            return error

    def _queue_apart(self, batch: list[WaitingCall], error: Exception) -> None:
        """Queues each call of a failed batch in a group of its own, so that a fault ends only the
        request that has it. A single call fails, and all calls fail on UnavailableError."""
        self.stats.batch_failures.add(batch[0].call.network)
        final = len(batch) == 1 or isinstance(error, UnavailableError)
        for waiting in batch:
            if final:
                waiting.live.fail(error)
                continue
            self._queue(replace(waiting, group=(*waiting.group, waiting.arrival)))

    def _give_up(self, calls: Iterable[WaitingCall], error: Exception) -> None:
        """Ends the programs that wait for these calls after an error of the engine itself."""
        log.error("the engine failed on some calls", exc_info=error)
        for waiting in calls:
            if waiting.live.waiting is waiting:
                waiting.live.fail(error)
        self._changed.set()

    async def _run_rows(self, call: NetworkCall, inputs: Tensors) -> Tensors:
        """Runs a batch; a call with more rows than its network takes is run in parts."""
        limit = self._limit(call)
        rows = len(next(iter(inputs.values())))
        if rows <= limit:
            outputs = await self.networks.run(call.network, inputs)
            check_shapes(call, rows, outputs)
            return outputs
        parts = []
        for start in range(0, rows, limit):
            some = {name: tensor[start : start + limit] for name, tensor in inputs.items()}
            parts.append(await self.networks.run(call.network, some))
            check_shapes(call, min(limit, rows - start), parts[-1])
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _charge(self, batch: list[WaitingCall], start_s: float) -> float:
        """Charges the requesters of a batch, also of a failed one; returns its seconds."""
        # A batch that was sent while another one ran has waited for the end of that one.
        end_s = time.perf_counter()
        seconds = end_s - max(start_s, self._last_end_s)
        self._last_end_s = end_s
        rows = _rows(batch)
        for waiting in batch:
            waiting.requester.charge(seconds * waiting.call.rows / rows)
        return seconds

    def _observe(self, batch: list[WaitingCall], seconds: float) -> None:
        call, rows = batch[0].call, _rows(batch)
        self.costs.observe(call.network, rows * call.row_elements, seconds)
        self.stats.step_seconds.add(seconds, call.network)
        log.debug(
            "batch network=%s rows=%d calls=%d requests=%d ms=%.1f",
            call.network,
            rows,
            len(batch),
            len({waiting.requester for waiting in batch}),
            seconds * 1e3,
        )


def _notify(batch: list[WaitingCall], start_ns: int, *, answered: bool) -> None:
    """Calls the listeners of a batch that has ended."""
    end_ns, rows, requests = time.time_ns(), 0, 0
    for waiting in batch:
        if (batch_listener := waiting.live.batch_listener) is None:
            continue
        if not rows:
            rows, requests = _rows(batch), len({each.requester for each in batch})
        own, network = waiting.call.rows, waiting.call.network
        batch_listener(
            BatchTiming(
                network, waiting.queued_ns, start_ns, end_ns,
                own, rows, len(batch), requests, answered,
            )
        )  # fmt: skip


def _rows(waiting: Iterable[WaitingCall]) -> int:
    return sum(each.call.rows for each in waiting)
