"""sample: passes every request to the step engine, whose loop runs in a thread.

``execute`` returns at once; threads send a request's response after its last SEG.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from request_plan.plan import Plan
from request_plan.refusals import CancelledByClientError
from sampling.pipeline import load_pipelines, network_table
from sampling.progress import RequestListener
from sampling.service import DetailService
from segs_client.arrays import ByteArray
from segs_client.contract import ContractError
from triton_models import state, stub
from triton_models.engine_metrics import engine_sources
from triton_models.event_channel import EventPublisher, channel_path
from triton_models.internal_token import check_internal
from triton_models.log_format import about
from triton_models.metrics import start_publishing
from triton_models.network_calls import TritonNetworks
from triton_models.progress_publisher import ProgressPublisher
from triton_models.request_registry import RequestRegistry
from triton_models.seg_spans import SegSpans
from triton_models.stage_calls import FOLLOWED, TOKEN
from triton_models.stub_logging import configure_logging
from triton_models.tracing import Span, Tracing

log = logging.getLogger(__name__)

_CANCELLED_LOOK_S = 0.05
"""Between two checks for cancelled requests."""
_SENDERS = 4
"""Threads that send responses: sending blocks."""


@dataclass(frozen=True)
class _SampleRequest:
    """A request with its inputs."""

    request: Any
    sender: Any
    token: str
    is_followed: bool
    plan_json: bytes
    crops: ByteArray
    masks: ByteArray
    start_ns: int = field(default_factory=time.time_ns)

    @property
    def request_id(self) -> str:
        """The id given by the front end."""
        return str(self.request.request_id())


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        configure_logging()
        self._heartbeat = state.Heartbeat(args["model_instance_name"])
        self._registry = RequestRegistry.of_environment()
        self._tracing = Tracing.of_environment()
        torch.set_num_threads(1)
        pipelines = load_pipelines(stub.repositories())
        table = network_table(pipelines.values())
        networks = TritonNetworks({name: list(each.outputs) for name, each in table.items()})
        self._service = DetailService(networks, pipelines, stub.limits())
        self._events = EventPublisher(channel_path())
        self._senders = ThreadPoolExecutor(_SENDERS, "responses")
        self._answered = 0
        self._calls: dict[str, asyncio.Task[Any]] = {}
        self._status = self._look()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="step-engine", daemon=True)
        self._thread.start()
        start_publishing(engine_sources(self._service, self._events, lambda: self._status))

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                check_internal(request.parameters())
            except ContractError as error:
                self._senders.submit(
                    stub.send_last, sender, stub.refusal(error, request.request_id())
                )
            else:
                self._take(request, sender)

    def _take(self, request: Any, sender: Any) -> None:
        incoming = _SampleRequest(
            request,
            sender,
            stub.parameter(request, TOKEN) or uuid.uuid4().hex,
            stub.parameter(request, FOLLOWED) is not None,
            stub.text(request, "plan"),
            stub.required(request, "crops"),
            stub.required(request, "seg_masks"),
        )
        self._registry.enter(incoming.token)
        asyncio.run_coroutine_threadsafe(self._attend(incoming), self._loop)

    def finalize(self) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(timeout=2)
        self._tracing.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._serving = self._loop.create_task(self._service.engine.serve())
        beside = [
            self._loop.create_task(self._heartbeat.run(self._report)),
            self._loop.create_task(self._drop_cancelled()),
        ]
        failed = False
        try:
            self._loop.run_until_complete(self._serving)
        except asyncio.CancelledError:
            pass
        except Exception:
            log.critical("the step engine has ended", exc_info=True)
            failed = True
        for task in beside:
            task.cancel()
        # The engine has ended all requests; wait until their responses are sent.
        self._loop.run_until_complete(asyncio.wait(asyncio.all_tasks(self._loop), timeout=1))
        self._senders.shutdown()
        self._loop.close()
        if failed:
            os._exit(1)  # an ended process is replaced at once

    def _report(self) -> None:
        """Reads orders and writes the status."""
        order = state.drain_order()
        self._service.admission.closed = order is not None
        if order == "end":
            self._service.engine.close()
        self._status = self._look()
        state.write_status(self._status)

    def _look(self) -> state.EngineStatus:
        service = self._service
        return state.EngineStatus(
            requests=len(service.admission),
            answered=self._answered,
            segs=service.slots.live,
            queued=service.slots.waiting,
            queued_s=service.admission.queued_s,
            programs=service.engine.programs,
            flights=tuple(service.engine.flights),
        )

    async def _drop_cancelled(self) -> None:
        """Ends cancelled requests: their SEGs join no further batch."""
        while True:
            for token in self._registry.cancelled():
                if (call := self._calls.get(token)) is not None:
                    call.cancel()
            await asyncio.sleep(_CANCELLED_LOOK_S)

    async def _attend(self, incoming: _SampleRequest) -> None:
        """Runs a request and sends its response."""
        self._calls[incoming.token] = cast("asyncio.Task[Any]", asyncio.current_task())
        try:
            with (
                self._tracing.span("sample", incoming.request, start_ns=incoming.start_ns) as span,
                about(incoming.request_id, span.trace_id),
            ):
                response = await self._answer(incoming, span)
        finally:
            self._calls.pop(incoming.token, None)
        self._senders.submit(stub.send_last, incoming.sender, response)

    async def _answer(self, incoming: _SampleRequest, span: Span) -> Any:
        """The response; never raises."""
        try:
            plan = Plan.model_validate_json(incoming.plan_json)
            listeners: list[RequestListener] = []
            if incoming.is_followed:
                listeners.append(ProgressPublisher(self._events, incoming.token, plan))
            if span.trace_id is not None:
                listeners.append(SegSpans(self._tracing, span, plan))
            done = await self._service.sample(plan, incoming.crops, incoming.masks, listeners)
            self._answered += 1
            return stub.answer(
                outcome=done.outcome.model_dump_json().encode(), sampled=done.sampled
            )
        except asyncio.CancelledError:
            error: Exception = CancelledByClientError()
        except Exception as raised:
            error = raised
        span.fail(error)
        return stub.refusal(error, incoming.request_id)
