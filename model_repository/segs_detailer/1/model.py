"""segs_detailer: the door that every request comes in by.

execute returns at once; answers are sent from an event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import triton_python_backend_utils as pb_utils

from serving import heart, stub
from serving.api_keys import keys_of_environment
from serving.door import Door
from serving.room import Room
from serving.stub_logging import configure_logging


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        configure_logging()
        self._door = Door(Room(stub.limits()), keys_of_environment())
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, name="door", daemon=True).start()
        heart.start_beating(args["model_instance_name"])

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            work = self._answer(request, request.get_response_sender())
            asyncio.run_coroutine_threadsafe(work, self._loop)

    def finalize(self) -> None:
        self._loop.call_soon_threadsafe(self._telling.cancel)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._telling = self._loop.create_task(self._tell())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._telling)

    async def _tell(self) -> None:
        """Opens the door, and says every second how it goes."""
        self._door.open()
        while True:
            heart.write_state(
                heart.DoorState(pending=self._door.room.requests, lost=self._door.lost)
            )
            await asyncio.sleep(heart.BEAT_S)

    async def _answer(self, request: Any, sender: Any) -> None:
        response = await self._door.answer(request)
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
