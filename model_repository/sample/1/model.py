"""sample: hands every request to the step engine, whose loop runs in a thread of its own.

execute returns at once; answers are sent from the loop when a request's last SEG is done.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from preprocessing.images import Pixels
from preprocessing.plan import CancelledByClientError, Plan
from sampling.pipeline import load_pipelines, network_table
from sampling.progress import Follower
from sampling.service import DetailService
from segs_client.contract import ContractError
from serving import heart, stub
from serving.bls import TritonNetworks
from serving.channel import EventSender, channel_path
from serving.door import DROP, FOLLOWED, TOKEN, parameter
from serving.engine_metrics import engine_sources
from serving.following import EngineFollower
from serving.inside import check_inside
from serving.log_format import about
from serving.metrics import start_publishing
from serving.seg_spans import SegSpans
from serving.stub_logging import configure_logging
from serving.tracing import Span, Tracing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Asked:
    """A request of this model's, read."""

    request: Any
    request_id: str
    token: str
    is_followed: bool
    plan_json: bytes
    crops: Pixels
    masks: Pixels
    start_ns: int


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        configure_logging()
        self._tracing = Tracing.of_environment()
        torch.set_num_threads(1)
        pipelines = load_pipelines(stub.repositories())
        table = network_table(pipelines.values())
        networks = TritonNetworks({name: list(each.outputs) for name, each in table.items()})
        self._service = DetailService(networks, pipelines, stub.limits())
        self._events = EventSender(channel_path())
        self._answered = 0
        self._calls: dict[str, asyncio.Task[Any]] = {}
        self._state = self._look()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="step-engine", daemon=True)
        self._thread.start()
        heart.start_beating(args["model_instance_name"])
        start_publishing(engine_sources(self._service, self._events, lambda: self._state))

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                check_inside(request.parameters())
            except ContractError as error:
                self._send(sender, stub.refusal(error, request.request_id()))
            else:
                self._take(request, sender)

    def _take(self, request: Any, sender: Any) -> None:
        if (dropped := parameter(request, DROP)) is not None:
            self._loop.call_soon_threadsafe(self._drop, dropped)
            self._send(sender, stub.answer(outcome=b"", sampled=np.empty(0, np.uint8)))
            return
        asked = _Asked(
            request,
            request.request_id(),
            parameter(request, TOKEN) or uuid.uuid4().hex,
            parameter(request, FOLLOWED) is not None,
            stub.text(request, "plan"),
            stub.required(request, "crops"),
            stub.required(request, "seg_masks"),
            time.time_ns(),
        )
        asyncio.run_coroutine_threadsafe(self._attend(asked, sender), self._loop)

    @staticmethod
    def _send(sender: Any, response: Any) -> None:
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(timeout=2)
        self._tracing.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._serving = self._loop.create_task(self._service.engine.serve())
        telling = self._loop.create_task(self._tell())
        failed = False
        try:
            self._loop.run_until_complete(self._serving)
        except asyncio.CancelledError:
            pass
        except Exception:
            log.critical("the step engine has ended", exc_info=True)
            failed = True
        telling.cancel()
        # The engine has ended what was under way: time for the answers to go out.
        self._loop.run_until_complete(asyncio.wait(asyncio.all_tasks(self._loop), timeout=1))
        self._loop.close()
        if failed:
            os._exit(1)  # a process that has gone is found and replaced at once

    async def _tell(self) -> None:
        """Says every second what the engine is doing, and hears whether it is to stop."""
        while True:
            order = heart.drain_order()
            self._service.admission.closed = order is not None
            if order == "end":
                self._service.engine.close()
            self._state = self._look()
            heart.write_state(self._state)
            await asyncio.sleep(heart.BEAT_S)

    def _look(self) -> heart.EngineState:
        """What the engine is doing."""
        service = self._service
        return heart.EngineState(
            requests=len(service.admission),
            answered=self._answered,
            segs=service.slots.live,
            queued=service.slots.waiting,
            queued_s=service.admission.queued_s,
            programs=service.engine.programs,
            flights=tuple(service.engine.flights),
        )

    def _drop(self, token: str) -> None:
        """Ends a request that nobody waits for: its SEGs are in no batch after those under way."""
        if (call := self._calls.get(token)) is not None:
            call.cancel()

    async def _attend(self, asked: _Asked, sender: Any) -> None:
        """Answers a request, and is who is ended where nobody waits for it any more."""
        self._calls[asked.token] = cast("asyncio.Task[Any]", asyncio.current_task())
        try:
            with (
                self._tracing.span("sample", asked.request, start_ns=asked.start_ns) as span,
                about(asked.request_id, span.trace_id),
            ):
                response = await self._answer(asked, span)
        finally:
            self._calls.pop(asked.token, None)
        self._send(sender, response)

    async def _answer(self, asked: _Asked, span: Span) -> Any:
        """The response; never raises."""
        try:
            plan = Plan.model_validate_json(asked.plan_json)
            followers: list[Follower] = []
            if asked.is_followed:
                followers.append(EngineFollower(self._events, asked.token, plan))
            if span.trace_id is not None:
                followers.append(SegSpans(self._tracing, span, plan))
            done = await self._service.sample(plan, asked.crops, asked.masks, followers)
            self._answered += 1
            return stub.answer(
                outcome=done.outcome.model_dump_json().encode(), sampled=done.sampled
            )
        except asyncio.CancelledError:
            error: Exception = CancelledByClientError()
        except Exception as raised:
            error = raised
        span.fail(error)
        return stub.refusal(error, asked.request_id)
