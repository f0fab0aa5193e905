"""The base of both front ends' Triton models: an event loop in a thread.

``execute`` returns at once; responses are sent from threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import ABC, abstractmethod
from typing import Any

from triton_models import state, stub
from triton_models.api_keys import keys_of_environment
from triton_models.front_end import FrontEnd
from triton_models.front_end_stats import FrontEndStats
from triton_models.in_flight import LOST_LIMIT
from triton_models.metrics import Source, start_publishing
from triton_models.stub_logging import configure_logging
from triton_models.tracing import Tracing


class FrontEndModel(ABC):
    """Base of their ``TritonPythonModel``."""

    def initialize(self, args: dict[str, str]) -> None:
        configure_logging()
        self._name = args["model_name"]
        self._heartbeat = state.Heartbeat(args["model_instance_name"])
        self._tracing = Tracing.of_environment()
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self.open())
        threading.Thread(target=self._serve, name="front-end", daemon=True).start()
        start_publishing(self.sources())

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            work = self.answer(request, request.get_response_sender())
            asyncio.run_coroutine_threadsafe(work, self._loop)

    def finalize(self) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._tracing.close()

    async def open(self) -> None:
        """Called in the event loop before the first request."""
        stats, keys = FrontEndStats(self._name), keys_of_environment()
        self.front_end = FrontEnd(stub.pipelines(), stub.limits(), stats, keys, self._tracing)

    @abstractmethod
    async def answer(self, request: Any, sender: Any) -> None:
        """Sends all responses to a request, with a flag on the last one; never raises."""

    def followed(self) -> int:
        """The number of requests that are subscribed to the engine's events."""
        return 0

    def sources(self) -> dict[str, Source]:
        """The sources of its metrics."""
        front_end, stats = self.front_end, self.front_end.stats
        return {
            "segs_requests_answered_total": stats.answered.values,
            "segs_requests_refused_total": stats.refused.values,
            "segs_errors_total": stats.failed.values,
            "segs_requests_cancelled_total": stats.cancelled.values,
            "segs_request_seconds": stats.seconds,
            "segs_requests_in_flight": lambda: {(self._name,): front_end.in_flight.calls},
            "segs_requests_waiting": lambda: {(self._name,): front_end.in_flight.waiting},
            "segs_waiting_seconds": lambda: {(self._name,): front_end.in_flight.waiting_s},
            "segs_calls_lost_total": lambda: {(self._name,): front_end.in_flight.lost},
        }

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._serving = self._loop.create_task(self._run())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serving)
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    async def _run(self) -> None:
        await asyncio.gather(self.front_end.stages.watch(), self._heartbeat.run(self._report))

    def _report(self) -> None:
        """Reads orders and writes the status."""
        front_end = self.front_end
        front_end.drain(state.drain_order())
        state.write_status(
            state.FrontEndStatus(
                model=self._name,
                pending=front_end.pending,
                arrived=front_end.arrived,
                lost=front_end.in_flight.lost,
                lost_limit=LOST_LIMIT,
                followed=self.followed(),
            )
        )
