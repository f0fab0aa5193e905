"""Calls of the ensemble of stages, with detection of calls lost with a stage's process."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from request_plan.refusals import StoppingError
from segs_client.contract import ContractError, ErrorDetail
from segs_client.triton_messages import process_ended, server_stopping
from triton_models import pb_utils
from triton_models.in_flight import InFlight, Place
from triton_models.internal_token import internal_parameters
from triton_models.request_registry import RequestRegistry
from triton_models.state import STAGE_MODELS, all_alive, is_alive

log = logging.getLogger(__name__)

STAGES = "segs_detailer_stages"
TOKEN = "token"
"""Parameter of a call of the stages: its name in the registry."""
FOLLOWED = "followed"
"""Parameter of a call of the stages: a front end has subscribed to its events."""
OUTPUTS = ("report", "detailed_image", "detailed_segs", "used_control_images")
"""Outputs of the stages."""
LOOK_S = 0.1
"""Between two checks of the stages' processes."""
_LOST_LOOKS = 3
"""A call that is still in a dead process at this number of checks is lost. (At the first check, the
next stage may not have recorded it yet.)"""


class ProcessDiedError(Exception):
    """A stage's process died with the call, or is missing.

    Args:
        has_begun: whether the request was in the process.
    """

    def __init__(self, *, has_begun: bool) -> None:
        super().__init__()
        self.has_begun = has_begun


@dataclass(eq=False)
class _Call:
    token: str
    place: Place
    answer: asyncio.Future[Any]
    lost: asyncio.Future[None]
    dead_looks: int = 0


class StageCalls:
    """The calls of one front end that are in flight. To be used from one event loop.

    Args:
        in_flight: has a place for each of them.
    """

    def __init__(self, in_flight: InFlight, registry: RequestRegistry) -> None:
        self._in_flight = in_flight
        self._registry = registry
        self._calls: dict[str, _Call] = {}
        self._are_alive = asyncio.Event()

    async def until_alive(self, limit_s: float) -> None:
        """Waits until each stage has its processes.

        Raises:
            asyncio.TimeoutError: not within ``limit_s``.
        """
        await asyncio.wait_for(self._are_alive.wait(), limit_s)

    async def run(
        self,
        request: Any,
        request_id: str,
        place: Place,
        deadline_s: float,
        parameters: Callable[[str], Mapping[str, str]],
    ) -> list[Any]:
        """Calls the stages once and returns their output tensors. If it is cancelled, the stages
        drop the request. The place is freed when the call has ended.

        Args:
            deadline_s: by ``time.time()``.
            parameters: returns further parameters of the stages for the call's token.

        Raises:
            ContractError: the stages have refused the request.
            ProcessDiedError: the request may be sent again.
            StoppingError: the server is being stopped.
            RuntimeError: another error of Triton's.
        """
        call = self._begin(request, request_id, place, deadline_s, parameters)
        try:
            await asyncio.wait({call.answer, call.lost}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if call.token in self._calls:  # else its file would never be removed
                self._registry.cancel(call.token)
            raise
        if not call.answer.done():
            raise ProcessDiedError(has_begun=True)
        return _tensors(call.answer.result())

    def _begin(
        self,
        request: Any,
        request_id: str,
        place: Place,
        deadline_s: float,
        parameters: Callable[[str], Mapping[str, str]],
    ) -> _Call:
        token = uuid.uuid4().hex
        left_s = deadline_s - time.time()
        try:
            requested = [name for name in request.requested_output_names() if name in OUTPUTS]
            answer = asyncio.ensure_future(
                pb_utils.InferenceRequest(
                    model_name=STAGES,
                    requested_output_names=requested or list(OUTPUTS),
                    inputs=request.inputs(),
                    request_id=request_id,
                    timeout=0 if left_s == math.inf else max(1, int(left_s * 1e6)),
                    parameters={TOKEN: token, **parameters(token), **internal_parameters()},
                ).async_exec()
            )
        except BaseException:
            self._in_flight.release(place)
            raise
        call = _Call(token, place, answer, asyncio.get_running_loop().create_future())
        self._calls[token] = call
        answer.add_done_callback(lambda _: self._end(call))
        return call

    def _end(self, call: _Call) -> None:
        self._registry.forget(call.token)
        failed = call.answer.exception() is not None or call.answer.result().has_error()
        if self._calls.pop(call.token, None) is not None:
            self._in_flight.release(call.place, done=not failed)

    async def watch(self) -> None:
        """Checks the stages' processes until cancelled."""
        while True:
            if all_alive(STAGE_MODELS):
                self._are_alive.set()
            else:
                self._are_alive.clear()
            for call in list(self._calls.values()):
                process = self._registry.process_of(call.token)
                is_dead = process is not None and not is_alive(process)
                call.dead_looks = call.dead_looks + 1 if is_dead else 0
                if call.dead_looks >= _LOST_LOOKS:
                    self._lose(call)
            await asyncio.sleep(LOOK_S)

    def _lose(self, call: _Call) -> None:
        """Ends a call that was in a dead process and will never be answered."""
        del self._calls[call.token]
        self._registry.forget(call.token)
        self._in_flight.lose(call.place)
        if not call.lost.done():
            call.lost.set_result(None)


def _tensors(answer: Any) -> list[Any]:
    if not answer.has_error():
        return list(answer.output_tensors())
    text = answer.error().message()
    detail = ErrorDetail.from_status_message(text)
    if detail is not None:
        raise ContractError(detail)
    if process_ended(text):
        log.debug("%s: %s", STAGES, text)
        raise ProcessDiedError(has_begun=False)
    if server_stopping(text):
        raise StoppingError
    raise RuntimeError(text)
