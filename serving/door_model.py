"""What both doors are as Triton models: an event loop in a thread of its own.

execute returns at once; answers are sent from the loop. Importable in a stub only.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import ABC, abstractmethod
from typing import Any

from serving import heart, stub
from serving.api_keys import keys_of_environment
from serving.door import Door
from serving.door_stats import DoorStats
from serving.metrics import Source, start_publishing
from serving.room import Room
from serving.stub_logging import configure_logging
from serving.tracing import Tracing


class DoorModel(ABC):
    """Base of their ``TritonPythonModel``."""

    def initialize(self, args: dict[str, str]) -> None:
        configure_logging()
        self._name = args["model_name"]
        stats = DoorStats(self._name)
        tracing = Tracing.of_environment()
        self.door = Door(Room(stub.limits()), stats, keys_of_environment(), tracing)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, name="door", daemon=True).start()
        heart.start_beating(args["model_instance_name"])
        start_publishing(self.sources())

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            work = self.answer(request, request.get_response_sender())
            asyncio.run_coroutine_threadsafe(work, self._loop)

    def finalize(self) -> None:
        self._loop.call_soon_threadsafe(self._telling.cancel)
        self.door.tracing.close()

    async def open(self) -> None:
        """What is done in the loop before the first request."""
        self.door.open()

    @abstractmethod
    async def answer(self, request: Any, sender: Any) -> None:
        """Sends all responses to a request, the last one flagged as such; never raises."""

    def followed(self) -> int:
        """Requests whose events are listened to."""
        return 0

    def sources(self) -> dict[str, Source]:
        """Of its metrics."""
        door, stats = self.door, self.door.stats
        return {
            "segs_requests_answered_total": stats.answered.values,
            "segs_requests_refused_total": stats.refused.values,
            "segs_errors_total": stats.failed.values,
            "segs_requests_cancelled_total": stats.cancelled.values,
            "segs_request_seconds": stats.seconds,
            "segs_requests_inside": lambda: {(self._name,): door.room.requests},
            "segs_calls_lost_total": lambda: {(self._name,): door.lost},
        }

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._telling = self._loop.create_task(self._tell())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._telling)
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    async def _tell(self) -> None:
        """Opens the door, says every second how it goes, and hears whether it is to be closed."""
        await self.open()
        while True:
            order = heart.drain_order()
            self.door.is_closed, self.door.is_over = order is not None, order == "end"
            heart.write_state(
                heart.DoorState(
                    model=self._name,
                    pending=self.door.room.requests,
                    lost=self.door.lost,
                    followed=self.followed(),
                )
            )
            await asyncio.sleep(heart.BEAT_S)
