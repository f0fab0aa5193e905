"""The front ends: what every request from outside passes on its way to the stages and back.

Triton reports only to the model that a client calls that the client has gone or that its deadline
has passed; steps of an ensemble do not learn of it. So this model stands in front of the ensemble:
it bounds what is in flight, has the stages drop what no caller waits for, and repeats what was lost
with a stage's process.
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
"""How long a request waits for a dead process's successor, the time in the queue aside."""
_ENDLESS_S = 1e9
"""A time-out beyond this is none: microseconds up to 2⁶⁴ − 1 may be asked for."""
_TRIES = 2
"""A request whose process dies is sent once more."""
_MOST_LOGGED = 200
"""Characters of an error in the log."""
_REPORT_S = 5.0
"""Between two reports of a request that waits."""
_READERS = 2
"""Threads that check requests."""
_SENDERS = 8
"""Threads that send responses: sending blocks."""


@dataclass(eq=False)
class ClientRequest:
    """A request from outside.

    ``interrupted`` gets the error that ends it before its answer, whatever it waits for.
    """

    request: Any
    request_id: str
    is_canary: bool = field(init=False)
    """Whether the supervisor has sent it."""
    arrived_s: float = field(default_factory=time.monotonic)
    span: Span = field(default_factory=Span, kw_only=True)
    code: ErrorCode | None = field(default=None, kw_only=True)
    """Of the error that it has ended with."""
    cause: str = field(default="", kw_only=True)
    """Message of that error."""
    cancelled: bool = field(default=False, kw_only=True)
    """By a call."""
    is_waiting: bool = field(default=False, kw_only=True)
    """For a place among those in flight."""
    interrupted: asyncio.Future[None] = field(init=False)

    def __post_init__(self) -> None:
        self.is_canary = is_internal(self.request.parameters())
        self.interrupted = asyncio.get_running_loop().create_future()

    def interrupt(self, error: Exception) -> None:
        """Ends the request with this error, unless it has ended."""
        if not self.interrupted.done():
            self.interrupted.set_exception(error)
            self.interrupted.exception()  # it need not be waited for

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
        """Further parameters of the stages, for a call under this token."""
        return self.span.parameters()

    def report_waiting(self, in_flight: InFlight, cost: RequestCost) -> None:
        """Called while the request waits for a place, now and every few seconds."""


class FrontEnd:
    """To be made and used in one event loop.

    Args:
        pipelines: by name.
        keys: API keys of those who may call; None: everybody may.
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
        """Requests since the start, the canary's not."""
        self._live: set[ClientRequest] = set()
        self._drain: Drain | None = None
        self._retry_after = RetryAfter()
        self._disconnects = DisconnectPoller()
        self._senders = ThreadPoolExecutor(_SENDERS, "responses")
        self._readers = ThreadPoolExecutor(_READERS, "checks")
        # A call holds one of these until it is answered; one that is lost holds it for good.
        calls = ThreadPoolExecutor(POOL_THREADS, "calls")
        asyncio.get_running_loop().set_default_executor(calls)

    @property
    def pending(self) -> int:
        """Requests that are not answered yet, the canary's not."""
        return sum(not each.is_canary for each in self._live)

    def drain(self, order: Drain | None) -> None:
        """Follows an order: new and waiting requests are refused, then those in flight ended."""
        if order == self._drain:
            return
        self._drain = order
        for each in list(self._live):
            if order == "end" or each.is_waiting:
                each.interrupt(StoppingError())

    async def answer(self, request: Any, sender: Any) -> None:
        """Answers a request that takes one response; never raises."""
        asked = ClientRequest(request, stub.id_of(request))
        with self.attending(asked):
            try:
                self.authenticate(asked)
                response = pb_utils.InferenceResponse(await self.run(asked))
            except Exception as error:
                response = stub.refused(self.fail(asked, error))
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
    def attending(self, asked: ClientRequest, *, is_order: bool = False) -> Iterator[None]:
        """From a request's arrival to its end: counted, traced and logged.

        Args:
            is_order: whether it only cancels another one, which is logged where it fails.
        """
        request_id = asked.request_id
        self.arrived += not asked.is_canary
        with (
            self.tracing.span(self.stats.model, asked.request, is_front_end=True) as asked.span,
            about(request_id, asked.span.trace_id),
        ):
            yield
            taken_s, code = time.monotonic() - asked.arrived_s, asked.code
            asked.span.note(request_id=request_id, code=code)
            if code is not None:
                asked.span.fail(code)
            elif is_order:
                return
            self.stats.ended(taken_s, code, asked=asked.cancelled)
            level = logging.DEBUG if asked.is_canary else logging.INFO
            fields = {"model": self.stats.model, "code": code or "OK", "seconds": round(taken_s, 6)}
            what, cause = code or "answered", f": {asked.cause}" if code else ""
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

    def authenticate(self, asked: ClientRequest) -> str | None:
        """Whose key came with a request; None where no key is required.

        Raises:
            ContractError: UNAUTHENTICATED.
        """
        if self.keys is None:
            return None
        name = self.keys.check(asked.request.parameters())
        level = logging.DEBUG if name == CANARY else logging.INFO
        log.log(level, "request %r: key %r", asked.request_id, name)
        return name

    def fail(self, asked: ClientRequest, error: BaseException) -> ErrorDetail:
        """The request has ended with this error; returns what its caller gets."""
        detail = stub.error_detail(error, asked.request_id)
        asked.code = detail.code
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
        asked.cause = " ".join(text.split())[:_MOST_LOGGED]
        return detail

    async def run(self, asked: ClientRequest) -> list[Any]:
        """The stages' output tensors.

        Raises:
            ContractError: the stages' own refusal.
            Exception: what else ended the request, for :meth:`fail`.
        """
        if self._drain is not None:
            raise StoppingError
        timeout_s = asked.request.timeout() / 1e6 or math.inf
        deadline_s = time.time() + timeout_s if timeout_s < _ENDLESS_S else math.inf
        with self._interruptible(asked, timeout_s):
            cost = await asked.until(self._check(asked))
            if self._drain is not None:  # ordered meanwhile
                raise StoppingError
            if asked.is_canary:  # a full server is ready
                return await self._run(asked, cost, deadline_s)
            with self.in_flight.accepted(cost, stub.size_bytes(asked.request)):
                return await self._run(asked, cost, deadline_s)

    @contextlib.contextmanager
    def _interruptible(self, asked: ClientRequest, timeout_s: float) -> Iterator[None]:
        """Inside, the request ends at its deadline, when its caller goes, and by a drain."""
        loop = asyncio.get_running_loop()

        def gone() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(asked.interrupt, CancelledByClientError())

        timer = None
        if timeout_s < _ENDLESS_S:
            timer = loop.call_later(timeout_s, asked.interrupt, DeadlineExceededError())
        self._live.add(asked)
        self._disconnects.add(asked.request, gone)
        try:
            yield
        finally:
            self._live.discard(asked)
            if timer is not None:
                timer.cancel()

    async def _check(self, asked: ClientRequest) -> RequestCost:
        """Refuses what is wrong with a request before it waits for anything.

        Raises:
            ContractError: as :func:`preprocessing.prepare.check`.
        """

        def work() -> RequestCost:
            inputs = stub.inputs(asked.request)
            return RequestCost.of(check(inputs, pipelines=self.pipelines, limits=self.limits))

        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def _run(self, asked: ClientRequest, cost: RequestCost, deadline_s: float) -> list[Any]:
        """Through the stages, and again if a process dies with it."""
        deaths, missing_s = 0, 0.0
        while True:
            waited_s = -time.monotonic()
            try:
                await asked.until(self.stages.until_alive(_NEW_PROCESS_S - missing_s))
            except asyncio.TimeoutError:
                raise LostError from None
            waited_s += time.monotonic()
            place = await asked.until(self._place(asked, cost))
            waited_s -= time.monotonic()
            try:
                return await asked.until(
                    self.stages.run(
                        asked.request, asked.request_id, place, deadline_s, asked.parameters
                    )
                )
            except ProcessDiedError as died:
                deaths += died.has_begun
                if deaths == _TRIES:
                    raise LostError from None
                waited_s += time.monotonic() + LOOK_S
                missing_s = 0.0 if died.has_begun else missing_s + waited_s
            await asked.until(asyncio.sleep(LOOK_S))

    async def _place(self, asked: ClientRequest, cost: RequestCost) -> Place:
        """A place among those in flight, when it is the request's turn."""
        placing = asyncio.ensure_future(self.in_flight.place(cost, asked.arrived_s))
        asked.is_waiting = True
        try:
            limit_s = 0.0
            while not (await asyncio.wait({placing}, timeout=limit_s))[0]:
                asked.report_waiting(self.in_flight, cost)
                limit_s = _REPORT_S
            return placing.result()
        except asyncio.CancelledError:
            if placing.done():
                self.in_flight.release(placing.result())
            placing.cancel()
            raise
        finally:
            asked.is_waiting = False


def _send(sender: Any, response: Any, flags: int) -> None:
    try:
        sender.send(response, flags=flags)
    except Exception as error:  # to a client that has gone
        log.debug("a response cannot be sent: %s", error)
