"""segs_detailer_stream: the door of requests that are told how they go."""

from __future__ import annotations

from typing import Any

from serving.channel import EventReceiver, channel_path
from serving.door_model import DoorModel
from serving.metrics import Source
from serving.stream import StreamDoor


class TritonPythonModel(DoorModel):
    def initialize(self, args: dict[str, str]) -> None:
        self._receiver = EventReceiver(channel_path())
        super().initialize(args)

    async def open(self) -> None:
        await super().open()
        await self._receiver.open()
        self._streams = StreamDoor(self.door, self._receiver)

    async def answer(self, request: Any, sender: Any) -> None:
        await self._streams.answer(request, sender)

    def sources(self) -> dict[str, Source]:
        return {**super().sources(), "segs_streams_followed": lambda: {(): self.followed()}}

    def followed(self) -> int:
        return len(self._receiver)
