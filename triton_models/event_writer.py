"""Sends one stream's events in order, the newest of each kind, with bounded bytes.

Triton accepts every response at once and keeps it until the client reads it, without reporting how
many it keeps. So steps and previews, which may be dropped, are sent at a pace that bounds their
bytes: about 100 kB/s for 20 s, then less often, 2 MB for every further e-fold of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from preprocessing.images import encode
from segs_client.events import EVENT_ADAPTER, EVENT_OUTPUT, PICTURE_OUTPUT
from triton_models import pb_utils, stub
from triton_models.event_channel import END

if TYPE_CHECKING:
    from triton_models.front_end import FrontEnd

log = logging.getLogger(__name__)

_LEAST_GAP_S = 0.02
_GAP_OF_AGE = 1e-3
"""Gap between events as a fraction of the request's age, if that is longer."""
_GAP_BYTES = 2048
"""Bytes that may be sent per gap."""
_SETTLE_S = 1.0
"""Wait for the last events of an ended request."""
_PACED = ("step", "preview")


@functools.cache
def _encoders() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "pictures")


@dataclass(frozen=True)
class _Due:
    """An event's own fields, and its picture's pixels."""

    fields: dict[str, Any]
    pixels: bytes = b""

    @property
    def place(self) -> tuple[Any, Any]:
        return self.fields.get("seg"), self.fields.get("batch_pass")


class EventWriter:
    """Sends one request's events; to be used from one event loop.

    Args:
        front_end: its threads send the responses.
        sender: Triton's sender of the request's responses.
    """

    def __init__(self, front_end: FrontEnd, request: Any, sender: Any, request_id: str) -> None:
        self._front_end = front_end
        self._request = request
        self._sender = sender
        self._request_id = request_id
        self._begun_s = time.monotonic()
        self._not_before_s = 0.0
        self._seq = 0
        self._due: deque[_Due] = deque()
        self._paced: OrderedDict[tuple[Any, ...], _Due] = OrderedDict()
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._has_engine_events = False
        self._ending = False
        self._pump: asyncio.Task[None] | None = None

    def restart(self) -> None:
        """Drops waiting steps and previews: the request is sent to the stages again."""
        self._settled.clear()
        self._paced.clear()

    def queued(self, position: int, estimate_s: float | None) -> None:
        """Queues the event that the request waits for a place in flight."""
        estimate_s = None if estimate_s is None else round(estimate_s, 3)
        fields = {"event": "queued", "position": position, "estimate_s": estimate_s}
        self._put(_Due(fields))

    def take(self, fields: dict[str, Any], pixels: bytes) -> None:
        """Queues an event of the engine."""
        event = fields["event"]
        if event == END:
            self._settled.set()
            return
        due = _Due(fields, pixels)
        self._has_engine_events = True
        if event == "segment":  # its steps are obsolete
            for kind in _PACED:
                self._paced.pop((kind, *due.place), None)
        self._put(due)

    def _put(self, due: _Due) -> None:
        event = due.fields["event"]
        if event in _PACED:
            self._paced[(event, *due.place)] = due
        else:
            self._due.append(due)
        self._changed.set()
        if self._pump is None:
            self._pump = asyncio.ensure_future(self._run())

    async def end(self, event: str, tensors: Sequence[Any] = (), **fields: Any) -> None:
        """Sends the waiting events, then the last one with its tensors; never raises."""
        is_cancelled = fields.get("error", {}).get("code") == "CANCELLED"
        if self._has_engine_events and not is_cancelled:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._settled.wait(), _SETTLE_S)
        self._ending = True
        self._changed.set()
        if self._pump is not None:
            await self._pump
        try:
            response = self._response({"event": event, **fields}, tensors)
        except Exception as error:
            response = stub.refusal(error, self._request_id)
        await self._front_end.send_last(self._request, self._sender, response)

    async def _run(self) -> None:
        while (due := self._next()) is not None or not self._ending:
            if due is not None:
                try:
                    await self._write(due)
                except Exception:
                    log.exception("request %r: an event cannot be sent", self._request_id)
                continue
            self._changed.clear()
            wait_s = self._not_before_s - time.monotonic() if self._paced else None
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)

    def _next(self) -> _Due | None:
        if self._due:
            return self._due.popleft()
        if self._ending or not self._paced or time.monotonic() < self._not_before_s:
            return None
        return self._paced.popitem(last=False)[1]

    async def _write(self, due: _Due) -> None:
        fields, tensors, size_bytes = dict(due.fields), [], 0
        form, quality = fields.pop("form", "png"), fields.pop("quality", 100)
        shape = fields.pop("shape", None)
        if shape is not None:
            pixels = np.frombuffer(due.pixels, np.uint8).reshape(shape)
            work = functools.partial(encode, pixels, form, quality)
            loop = asyncio.get_running_loop()
            picture = await loop.run_in_executor(_encoders(), work)
            fields["picture"] = {"encoding": form, "shape": shape}
            tensors.append(pb_utils.Tensor(PICTURE_OUTPUT, picture))
            size_bytes = picture.nbytes
        await self._front_end.send(self._sender, self._response(fields, tensors))
        if fields["event"] in _PACED:
            now_s = time.monotonic()
            gap_s = max(_LEAST_GAP_S, _GAP_OF_AGE * (now_s - self._begun_s))
            self._not_before_s = now_s + gap_s * max(1.0, size_bytes / _GAP_BYTES)

    def _response(self, fields: dict[str, Any], tensors: Sequence[Any]) -> Any:
        """An event's response with the next number.

        Raises:
            ValidationError: the fields are not those of the event.
        """
        named = {"request_id": self._request_id, "seq": self._seq, **fields}
        named["at_s"] = round(time.monotonic() - self._begun_s, 6)
        event = EVENT_ADAPTER.validate_python(named)
        self._seq += 1
        text = pb_utils.Tensor(EVENT_OUTPUT, stub.as_flat(event.model_dump_json().encode()))
        return pb_utils.InferenceResponse([text, *tensors])
