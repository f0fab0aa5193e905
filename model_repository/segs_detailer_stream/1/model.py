"""segs_detailer_stream: the front end of requests whose responses are events."""

from __future__ import annotations

from typing import Any

from triton_models.event_channel import EventSubscriber, channel_path
from triton_models.front_end_model import FrontEndModel
from triton_models.metrics import Source
from triton_models.stream_front_end import StreamFrontEnd


class TritonPythonModel(FrontEndModel):
    async def open(self) -> None:
        await super().open()
        self._subscriber = EventSubscriber(channel_path())
        await self._subscriber.open()
        self._streams = StreamFrontEnd(self.front_end, self._subscriber)

    async def answer(self, request: Any, sender: Any) -> None:
        await self._streams.answer(request, sender)

    def sources(self) -> dict[str, Source]:
        return {**super().sources(), "segs_streams_followed": lambda: {(): self.followed()}}

    def followed(self) -> int:
        return len(self._subscriber)
