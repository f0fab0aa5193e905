"""The doors: let requests from outside through to the stages, and watch over them.

Triton tells only the model that a client calls that the client has gone or that its deadline has
passed; steps of an ensemble never hear of it. So this model stands in front of the ensemble, tells
the step engine to drop what nobody waits for, and repeats what a dying process took with it.

Importable in a stub only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from preprocessing.plan import (
    CancelledByClientError,
    DeadlineExceededError,
    LostError,
    StoppingError,
)
from segs_client.contract import ContractError, ErrorCode, ErrorDetail
from serving import heart, stub
from serving.api_keys import CANARY, CANARY_ID, ApiKeys
from serving.door_stats import DoorStats
from serving.heart import ENGINE_MODEL
from serving.inside import inside_parameters, read_parameters
from serving.log_format import FIELDS, about
from serving.room import Room
from serving.tracing import Span, Tracing

log = logging.getLogger(__name__)

STAGES = "segs_detailer_stages"
TOKEN = "token"
"""Parameter of a request's stages: by it the step engine knows what to drop."""
DROP = "drop"
"""Parameter of a call that tells the step engine to drop a request."""
FOLLOWED = "followed"
"""Parameter of a request's stages: somebody listens on the channel to how it goes."""
OUTPUTS = ("report", "detailed_image", "detailed_segs", "used_control_images")
"""Of the stages."""
_STAGE_MODELS = ("prepare", ENGINE_MODEL, "composite")

_LOOK_S = 0.05
"""How often a request is looked after; a look costs some 50 µs."""
_DROP_AGAIN_S = 0.25
"""The engine may not have had the request yet when it was told to drop it."""
_ANSWERED_S = 3.0
"""Until Triton has answered, after a second, for a process that was dead before it was called."""
_NEW_PROCESS_S = 30.0
"""How long a request waits for a dead process's successor."""
_ENDLESS_S = 1e9
"""A time-out beyond this is none: microseconds up to 2⁶⁴ − 1 may be asked for."""
_TRIES = 2
"""A request that takes a process down with it does so twice, no more."""


@dataclass(eq=False)
class Visitor:
    """A request from outside."""

    request: Any
    request_id: str
    span: Span = field(default_factory=Span, kw_only=True)
    code: ErrorCode | None = field(default=None, kw_only=True)
    """Of the error that it has ended with."""
    cancelled: bool = field(default=False, kw_only=True)
    """By a call."""

    def fail(self, error: BaseException) -> ErrorDetail:
        """It has ended with this error; returns what its caller is told."""
        detail = stub.error_detail(error, self.request_id)
        self.code = detail.code
        return detail

    def check(self) -> None:
        """
        Raises:
            CancelledByClientError: nobody waits for the answer any more.
        """
        if self.request.is_cancelled():
            raise CancelledByClientError

    def begin(self, token: str) -> Mapping[str, str]:
        """It is sent through the stages, or once more, under this token.

        Returns:
            Further parameters of the stages.
        """
        return {}


@dataclass
class Door:
    """To be used from one event loop.

    Args:
        room: for those who come in.
        stats: counts them.
        keys: of those who may; None: everybody.
    """

    room: Room
    stats: DoorStats
    keys: ApiKeys | None = None
    tracing: Tracing = field(default_factory=Tracing)
    is_closed: bool = False
    """Whether nobody is let in any more, as the server is being stopped."""
    is_over: bool = False
    """Whether those inside are ended too."""
    lost: int = 0
    """Calls whose process died and that Triton will never end."""
    _seen_off: set[asyncio.Task[None]] = field(default_factory=set)

    def open(self) -> None:
        """To be called in the event loop, first."""
        # A call from within the server takes a thread until it is answered.
        threads = ThreadPoolExecutor(self.room.places, "stages")
        asyncio.get_running_loop().set_default_executor(threads)

    async def answer(self, request: Any) -> Any:
        """The response to a request; never raises."""
        visitor = Visitor(request, id_of(request))
        with self.attending(visitor):
            try:
                self.ask_who(visitor)
                return pb_utils.InferenceResponse(await self.let_through(visitor))
            except Exception as error:
                return stub.refused(visitor.fail(error))

    @contextlib.contextmanager
    def attending(self, visitor: Visitor, *, is_order: bool = False) -> Iterator[None]:
        """From a request's arrival to its end: counted, traced and logged.

        Args:
            is_order: whether it only cancels another one, which is told where it fails.
        """
        start_s, request_id = time.perf_counter(), visitor.request_id
        with (
            self.tracing.span(self.stats.model, visitor.request, is_door=True) as visitor.span,
            about(request_id, visitor.span.trace_id),
        ):
            yield
            taken_s, code = time.perf_counter() - start_s, visitor.code
            visitor.span.note(request_id=request_id, code=code)
            if code is not None:
                visitor.span.fail(code)
            elif is_order:
                return
            self.stats.ended(taken_s, code, asked=visitor.cancelled)
            level = logging.DEBUG if request_id.startswith(CANARY_ID) else logging.INFO
            fields = {"model": self.stats.model, "code": code or "OK", "seconds": round(taken_s, 6)}
            what = code or "answered"
            extra = {FIELDS: fields}
            log.log(level, "request %r: %s after %.3f s", request_id, what, taken_s, extra=extra)

    def ask_who(self, visitor: Visitor) -> str | None:
        """Whose key came with a request; None where nobody is asked.

        Raises:
            ContractError: UNAUTHENTICATED.
        """
        if self.keys is None:
            return None
        name = self.keys.check(visitor.request.parameters())
        level = logging.DEBUG if name == CANARY else logging.INFO
        log.log(level, "request %r: key %r", visitor.request_id, name)
        return name

    async def let_through(self, visitor: Visitor) -> list[Any]:
        """The stages' output tensors.

        Raises:
            ContractError: the stages' own refusal.
            Exception: what else ended the request, for :func:`stub.error_detail`.
        """
        if self.is_closed:
            raise StoppingError
        with self.room.taken(stub.size_bytes(visitor.request)):
            return await _Passage(self, visitor).go()

    def lose(self) -> None:
        """A call will never end: its thread is left to itself, and new ones serve the others."""
        self.lost += 1
        self.open()

    def see_off(self, call: asyncio.Future[Any], token: str) -> None:
        """Has the engine drop a request that nobody waits for."""
        task = asyncio.ensure_future(_drop(self, call, token))
        self._seen_off.add(task)
        task.add_done_callback(self._seen_off.discard)


class _Passage:
    """One request's way through the stages."""

    def __init__(self, door: Door, visitor: Visitor) -> None:
        self._door = door
        self._visitor = visitor
        timeout_s = visitor.request.timeout() / 1e6 or math.inf
        self._deadline_s = time.time() + timeout_s if timeout_s < _ENDLESS_S else math.inf
        self._trouble_s = math.inf
        """Since when a process is missing."""

    async def go(self) -> list[Any]:
        """Through the stages, again if a process on the way dies."""
        deaths = 0
        while deaths < _TRIES:
            processes = await self._stages()
            tensors = await self._call(processes)
            if tensors is not None:
                return tensors
            if not processes.all_alive(*_STAGE_MODELS):
                deaths += 1
                self._trouble_s = math.inf  # what there was before it is over
            await self._wait_in_trouble()
        raise LostError

    async def _stages(self) -> heart.Processes:
        """The stages' processes, once there is one of each."""
        while not (found := heart.processes(_STAGE_MODELS)).all_alive(*_STAGE_MODELS):
            self._check()
            await self._wait_in_trouble()
        return found

    async def _wait_in_trouble(self) -> None:
        """A short while, until the trouble has lasted for too long."""
        self._trouble_s = min(self._trouble_s, time.monotonic())
        if time.monotonic() - self._trouble_s > _NEW_PROCESS_S:
            raise LostError
        await asyncio.sleep(_LOOK_S)

    async def _call(self, processes: heart.Processes) -> list[Any] | None:
        """Goes through the stages once; None if one of their processes died."""
        token = uuid.uuid4().hex
        request = self._visitor.request
        asked = [name for name in request.requested_output_names() if name in OUTPUTS]
        left_s = self._deadline_s - time.time()
        call = asyncio.ensure_future(
            pb_utils.InferenceRequest(
                model_name=STAGES,
                requested_output_names=asked or list(OUTPUTS),
                inputs=request.inputs(),
                request_id=self._visitor.request_id,
                timeout=0 if left_s == math.inf else max(1, int(left_s * 1e6)),
                parameters={
                    TOKEN: token,
                    **self._visitor.begin(token),
                    **self._visitor.span.parameters(),
                    **inside_parameters(),
                },
            ).async_exec()
        )
        while not (await asyncio.wait({call}, timeout=_LOOK_S))[0]:
            try:
                self._check()
            except Exception:
                self._door.see_off(call, token)
                raise
            # For the other stages' processes Triton answers itself.
            if not processes.all_alive(ENGINE_MODEL):
                self._door.lose()
                return None
        return _tensors(call.result())

    def _check(self) -> None:
        """Raises if nobody waits for the answer any more, or none will come."""
        if self._door.is_over:
            raise StoppingError
        self._visitor.check()
        if time.time() >= self._deadline_s:
            raise DeadlineExceededError


def _tensors(answer: Any) -> list[Any] | None:
    """The stages' answer; None if a process died."""
    if not answer.has_error():
        return list(answer.output_tensors())
    text = answer.error().message()
    detail = ErrorDetail.from_status_message(text)
    if detail is not None:
        raise ContractError(detail)
    if stub.tells_of_death(text):
        return None
    raise RuntimeError(text)


async def _drop(door: Door, call: asyncio.Future[Any], token: str) -> None:
    """Tells the engine to drop a request until its call has ended, or never will: Triton ends none
    that was inside of a process that died."""
    processes = heart.processes((ENGINE_MODEL,))
    order = asyncio.ensure_future(_order_to_drop(token).async_exec())
    while not (await asyncio.wait({call}, timeout=_DROP_AGAIN_S))[0]:
        if not processes.all_alive(ENGINE_MODEL):
            await asyncio.wait({call, order}, timeout=_ANSWERED_S)
            for each in (call, order):
                if not each.done():
                    door.lose()
            return
        if order.done():
            order = asyncio.ensure_future(_order_to_drop(token).async_exec())


def _order_to_drop(token: str) -> Any:
    nothing = np.zeros(1, np.uint8)
    return pb_utils.InferenceRequest(
        model_name=ENGINE_MODEL,
        requested_output_names=["outcome"],
        inputs=[
            pb_utils.Tensor("plan", np.array([b""], dtype=object)),
            pb_utils.Tensor("crops", nothing),
            pb_utils.Tensor("seg_masks", nothing),
        ],
        parameters={DROP: token, **inside_parameters()},
    )


def id_of(request: Any) -> str:
    """A request's own id, or one that is made up."""
    return request.request_id() or uuid.uuid4().hex


def parameter(request: Any, name: str) -> str | None:
    """A text parameter of a request; None where it has none of that name."""
    value = read_parameters(request.parameters()).get(name)
    return value if isinstance(value, str) else None
