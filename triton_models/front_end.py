"""The front ends: they receive every client's request and call the stages.

Triton reports a disconnected client or a passed deadline only to the model that the client calls,
not to the steps of an ensemble. So this model is called before the ensemble: it bounds the requests
in flight, cancels those without a caller in the stages, and repeats calls that were lost with a
stage's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import time
from collections.abc import Awaitable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipelines import PipelineDescriptor
from preprocessing.prepare import check
from request_plan.limits import Limits
from request_plan.refusals import (
    TRY_AGAIN,
    CancelledByClientError,
    DeadlineExceededError,
    LostError,
    OverloadedError,
    StoppingError,
)
from segs_client.contract import ErrorCode, ErrorDetail
from triton_models import pb_utils, stub
from triton_models.api_keys import CANARY, ApiKeys
from triton_models.disconnects import DisconnectPoller
from triton_models.front_end_stats import FrontEndStats
from triton_models.in_flight import POOL_THREADS, InFlight, Place
from triton_models.internal_token import is_internal
from triton_models.log_format import FIELDS, about
from triton_models.request_cost import RequestCost
from triton_models.request_registry import RequestRegistry
from triton_models.retry_after import RetryAfter
from triton_models.stage_calls import LOOK_S, ProcessDiedError, StageCalls
from triton_models.state import Drain
from triton_models.tracing import Span, Tracing

log = logging.getLogger(__name__)

T = TypeVar("T")

_NEW_PROCESS_S = 30.0
"""Limit of a request's wait for a new process after a death, without its time in the queue."""
_ENDLESS_S = 1e9
"""A larger time-out counts as none: microseconds up to 2⁶⁴ − 1 are allowed."""
_TRIES = 2
"""A request is repeated once if its process dies."""
_MOST_LOGGED = 200
"""Characters of an error in the log."""
_REPORT_S = 5.0
"""Between two reports of a waiting request."""
_READERS = 2
"""Threads that check requests."""
_SENDERS = 8
"""Threads that send responses: sending blocks."""


@dataclass(eq=False)
class ClientRequest:
    """A client's request; ``interrupted`` gets the error that ends it before its response."""

    request: Any
    request_id: str
    is_canary: bool = field(init=False)
    """Whether the supervisor has sent it."""
    arrived_s: float = field(default_factory=time.monotonic)
    span: Span = field(default_factory=Span, kw_only=True)
    code: ErrorCode | None = field(default=None, kw_only=True)
    """Code of its error, if it has failed."""
    cause: str = field(default="", kw_only=True)
    """Message of its error."""
    cancelled: bool = field(default=False, kw_only=True)
    """Whether a call cancelled it."""
    is_waiting: bool = field(default=False, kw_only=True)
    """Whether it waits for a place in flight."""
    interrupted: asyncio.Future[None] = field(init=False)

    def __post_init__(self) -> None:
        self.is_canary = is_internal(self.request.parameters())
        self.interrupted = asyncio.get_running_loop().create_future()

    def interrupt(self, error: Exception) -> None:
        """Ends the request with this error, unless it has ended."""
        if not self.interrupted.done():
            self.interrupted.set_exception(error)
            self.interrupted.exception()  # marks it as retrieved

    async def until(self, work: Awaitable[T]) -> T:
        """The result of the work, which is cancelled if the request is interrupted.

        Raises:
            Exception: the work's, or that of the interruption.
        """
        task = asyncio.ensure_future(work)
        try:
            both: set[asyncio.Future[Any]] = {task, self.interrupted}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
        if task.done():
            return task.result()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self.interrupted.result()
        raise AssertionError("interrupted without an error")

    def parameters(self, token: str) -> Mapping[str, str]:
        """Further parameters of the stages for a call with this token."""
        return self.span.parameters()

    def report_waiting(self, in_flight: InFlight, cost: RequestCost) -> None:
        """Called when the request starts to wait for a place, and every few seconds."""


class FrontEnd:
    """A front end; to be created and used in one event loop.

    Args:
        pipelines: by name.
        keys: the API keys; None: no key is required.
    """

    def __init__(
        self,
        pipelines: Mapping[str, PipelineDescriptor],
        limits: Limits,
        stats: FrontEndStats,
        keys: ApiKeys | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.pipelines = pipelines
        self.limits = limits
        self.stats = stats
        self.keys = keys
        self.tracing = tracing or Tracing()
        self.in_flight = InFlight(limits)
        self.stages = StageCalls(self.in_flight, RequestRegistry.of_environment())
        self.arrived = 0
        """Requests since the start, without canaries."""
        self._live: set[ClientRequest] = set()
        self._drain: Drain | None = None
        self._retry_after = RetryAfter()
        self._disconnects = DisconnectPoller()
        self._senders = ThreadPoolExecutor(_SENDERS, "responses")
        self._readers = ThreadPoolExecutor(_READERS, "checks")
        # A call uses one of these threads until it is answered; a lost call never frees it.
        calls = ThreadPoolExecutor(POOL_THREADS, "calls")
        asyncio.get_running_loop().set_default_executor(calls)

    @property
    def pending(self) -> int:
        """Unanswered requests without canaries."""
        return sum(not each.is_canary for each in self._live)

    def drain(self, order: Drain | None) -> None:
        """Executes an order: "refuse" refuses new and waiting requests, "end" also ends those in
        flight."""
        if order == self._drain:
            return
        self._drain = order
        for each in list(self._live):
            if order == "end" or each.is_waiting:
                each.interrupt(StoppingError())

    async def answer(self, request: Any, sender: Any) -> None:
        """Answers a request with one response; never raises."""
        incoming = ClientRequest(request, stub.id_of(request))
        with self.attending(incoming):
            try:
                self.authenticate(incoming)
                response = pb_utils.InferenceResponse(await self.run(incoming))
            except Exception as error:
                response = stub.refused(self.fail(incoming, error))
            await self.send_last(request, sender, response)

    async def send(self, sender: Any, response: Any, flags: int = 0) -> None:
        """Sends a response; never raises."""
        work = functools.partial(_send, sender, response, flags)
        await asyncio.get_running_loop().run_in_executor(self._senders, work)

    async def send_last(self, request: Any, sender: Any, response: Any) -> None:
        """Sends the last response to a request; never raises."""

        def work() -> None:
            self._disconnects.remove(request)
            _send(sender, response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        await asyncio.get_running_loop().run_in_executor(self._senders, work)

    @contextlib.contextmanager
    def attending(self, incoming: ClientRequest, *, is_order: bool = False) -> Iterator[None]:
        """Counts, traces and logs a request, from its arrival to the end of the block.

        Args:
            is_order: whether it only cancels another one; then only a failure is logged.
        """
        request_id = incoming.request_id
        self.arrived += not incoming.is_canary
        with (
            self.tracing.span(
                self.stats.model, incoming.request, is_front_end=True
            ) as incoming.span,
            about(request_id, incoming.span.trace_id),
        ):
            yield
            taken_s, code = time.monotonic() - incoming.arrived_s, incoming.code
            incoming.span.note(request_id=request_id, code=code)
            if code is not None:
                incoming.span.fail(code)
            elif is_order:
                return
            self.stats.ended(taken_s, code, by_call=incoming.cancelled)
            level = logging.DEBUG if incoming.is_canary else logging.INFO
            fields = {"model": self.stats.model, "code": code or "OK", "seconds": round(taken_s, 6)}
            what, cause = code or "answered", f": {incoming.cause}" if code else ""
            extra = {FIELDS: fields}
            log.log(
                level,
                "request %r: %s after %.3f s%s",
                request_id,
                what,
                taken_s,
                cause,
                extra=extra,
            )

    def authenticate(self, incoming: ClientRequest) -> str | None:
        """The name of a request's API key; None if no key is required.

        Raises:
            ContractError: UNAUTHENTICATED.
        """
        if self.keys is None:
            return None
        name = self.keys.check(incoming.request.parameters())
        level = logging.DEBUG if name == CANARY else logging.INFO
        log.log(level, "request %r: key %r", incoming.request_id, name)
        return name

    def fail(self, incoming: ClientRequest, error: BaseException) -> ErrorDetail:
        """Records the error of a request; returns the error for its caller."""
        detail = stub.error_detail(error, incoming.request_id)
        incoming.code = detail.code
        if detail.retry_after_s is not None:
            if detail.message.startswith(OverloadedError.WHY):
                after_s = self._retry_after(detail.retry_after_s, self.in_flight.interval_s)
            else:
                after_s = self._retry_after.spread(detail.retry_after_s)
            why = detail.message.partition(TRY_AGAIN)[0]
            changed = {
                "message": f"{why}{TRY_AGAIN}{after_s:.1f} s",
                "retry_after_s": round(after_s, 2),
            }
            detail = detail.model_copy(update=changed)
        text = f"{detail.field}: {detail.message}" if detail.field else detail.message
        incoming.cause = " ".join(text.split())[:_MOST_LOGGED]
        return detail

    async def run(self, incoming: ClientRequest) -> list[Any]:
        """The stages' output tensors.

        Raises:
            ContractError: the stages have refused the request.
            Exception: another error, for :meth:`fail`.
        """
        if self._drain is not None:
            raise StoppingError
        timeout_s = incoming.request.timeout() / 1e6 or math.inf
        deadline_s = time.time() + timeout_s if timeout_s < _ENDLESS_S else math.inf
        with self._interruptible(incoming, timeout_s):
            cost = await incoming.until(self._check(incoming))
            if self._drain is not None:  # ordered meanwhile
                raise StoppingError
            if incoming.is_canary:  # not bounded, since a full server is ready
                return await self._run(incoming, cost, deadline_s)
            with self.in_flight.accepted(cost, stub.size_bytes(incoming.request)):
                return await self._run(incoming, cost, deadline_s)

    @contextlib.contextmanager
    def _interruptible(self, incoming: ClientRequest, timeout_s: float) -> Iterator[None]:
        """A context in which the request is ended by its deadline, its caller or a drain."""
        loop = asyncio.get_running_loop()

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(incoming.interrupt, CancelledByClientError())

        timer = None
        if timeout_s < _ENDLESS_S:
            timer = loop.call_later(timeout_s, incoming.interrupt, DeadlineExceededError())
        self._live.add(incoming)
        self._disconnects.add(incoming.request, cancel)
        try:
            yield
        finally:
            self._live.discard(incoming)
            if timer is not None:
                timer.cancel()

    async def _check(self, incoming: ClientRequest) -> RequestCost:
        """Checks a request before it waits for anything.

        Raises:
            ContractError: as :func:`preprocessing.prepare.check`.
        """

        def work() -> RequestCost:
            inputs = stub.inputs(incoming.request)
            return RequestCost.of(check(inputs, pipelines=self.pipelines, limits=self.limits))

        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def _run(
        self, incoming: ClientRequest, cost: RequestCost, deadline_s: float
    ) -> list[Any]:
        """Calls the stages, and again if a process dies during the call."""
        deaths, missing_s = 0, 0.0
        while True:
            waited_s = -time.monotonic()
            try:
                await incoming.until(self.stages.until_alive(_NEW_PROCESS_S - missing_s))
            except asyncio.TimeoutError:
                raise LostError from None
            waited_s += time.monotonic()
            place = await incoming.until(self._place(incoming, cost))
            waited_s -= time.monotonic()
            try:
                return await incoming.until(
                    self.stages.run(
                        incoming.request,
                        incoming.request_id,
                        place,
                        deadline_s,
                        incoming.parameters,
                    )
                )
            except ProcessDiedError as died:
                deaths += died.has_begun
                if deaths == _TRIES:
                    raise LostError from None
                waited_s += time.monotonic() + LOOK_S
                missing_s = 0.0 if died.has_begun else missing_s + waited_s
            await incoming.until(asyncio.sleep(LOOK_S))

    async def _place(self, incoming: ClientRequest, cost: RequestCost) -> Place:
        """Waits for a place in flight."""
        placing = asyncio.ensure_future(self.in_flight.place(cost, incoming.arrived_s))
        incoming.is_waiting = True
        try:
            limit_s = 0.0
            while not (await asyncio.wait({placing}, timeout=limit_s))[0]:
                incoming.report_waiting(self.in_flight, cost)
                limit_s = _REPORT_S
            return placing.result()
        except asyncio.CancelledError:
            if placing.done():
                self.in_flight.release(placing.result())
            placing.cancel()
            raise
        finally:
            incoming.is_waiting = False


def _send(sender: Any, response: Any, flags: int) -> None:
    try:
        sender.send(response, flags=flags)
    except Exception as error:  # the client has disconnected
        log.debug("a response cannot be sent: %s", error)
