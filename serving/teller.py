"""Sending one stream's events: in order, the newest of each kind, and never more than a client that
does not read may cost.

Triton takes every response at once and keeps it until the client reads: it does not tell how many
it keeps. So what may be left out, steps and previews, is told at a pace that bounds their bytes
whoever reads: some 100 kB/s for 20 s, then by and by less often, by 2 MB for every further e-fold
of the time.
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
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from preprocessing.images import encode
from segs_client.events import EVENT_ADAPTER, EVENT_OUTPUT, PICTURE_OUTPUT
from serving import stub
from serving.channel import END

log = logging.getLogger(__name__)

_LEAST_GAP_S = 0.02
_GAP_OF_AGE = 1e-3
"""Of the time since the request came, where that is more."""
_GAP_BYTES = 2048
"""What a gap pays for."""
_SETTLE_S = 1.0
"""For the last events of a request that has ended to arrive."""
_PACED = ("step", "preview")


@functools.cache
def _encoders() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "pictures")


@dataclass(frozen=True)
class _Heard:
    """A message of the engine: an event's fields but for those that all have."""

    fields: dict[str, Any]
    pixels: bytes

    @property
    def place(self) -> tuple[Any, Any]:
        return self.fields.get("seg"), self.fields.get("batch_pass")


class Teller:
    """Tells one request's events; to be used from one event loop.

    Args:
        sender: Triton's, of the request's responses.
    """

    def __init__(self, sender: Any, request_id: str) -> None:
        self._sender = sender
        self.request_id = request_id
        self._begun_s = time.monotonic()
        self._not_before_s = 0.0
        self._seq = 0
        self._due: deque[_Heard] = deque()
        self._paced: OrderedDict[tuple[Any, ...], _Heard] = OrderedDict()
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._heard_any = False
        self._ending = False
        self._pump: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The request goes through the stages, or once more: steps from before are of no use."""
        self._settled.clear()
        self._paced.clear()

    def take(self, fields: dict[str, Any], pixels: bytes) -> None:
        """Takes a message of the engine."""
        event = fields["event"]
        if event == END:
            self._settled.set()
            return
        heard = _Heard(fields, pixels)
        self._heard_any = True
        if event in _PACED:
            self._paced[(event, *heard.place)] = heard
        else:
            if event == "segment":  # nothing more is said of its steps
                for kind in _PACED:
                    self._paced.pop((kind, *heard.place), None)
            self._due.append(heard)
        self._changed.set()
        if self._pump is None:
            self._pump = asyncio.ensure_future(self._run())

    async def end(self, event: str, tensors: Sequence[Any] = (), **fields: Any) -> None:
        """Sends what is due, then the last event with its tensors; never raises."""
        if self._heard_any and not self._sender.is_cancelled():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._settled.wait(), _SETTLE_S)
        self._ending = True
        self._changed.set()
        if self._pump is not None:
            await self._pump
        try:
            response = self._response({"event": event, **fields}, tensors)
        except Exception as error:
            response = stub.refusal(error, self.request_id)
        self._send(response, final=True)

    async def _run(self) -> None:
        while (heard := self._next()) is not None or not self._ending:
            if heard is not None:
                try:
                    await self._tell(heard)
                except Exception:
                    log.exception("request %r: an event cannot be told", self.request_id)
                continue
            self._changed.clear()
            wait_s = self._not_before_s - time.monotonic() if self._paced else None
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)

    def _next(self) -> _Heard | None:
        if self._due:
            return self._due.popleft()
        if self._ending or not self._paced or time.monotonic() < self._not_before_s:
            return None
        return self._paced.popitem(last=False)[1]

    async def _tell(self, heard: _Heard) -> None:
        fields, tensors, size_bytes = dict(heard.fields), [], 0
        form, quality = fields.pop("form", "png"), fields.pop("quality", 100)
        shape = fields.pop("shape", None)
        if shape is not None:
            pixels = np.frombuffer(heard.pixels, np.uint8).reshape(shape)
            work = functools.partial(encode, pixels, form, quality)
            loop = asyncio.get_running_loop()
            picture = await loop.run_in_executor(_encoders(), work)
            fields["picture"] = {"encoding": form, "shape": shape}
            tensors.append(pb_utils.Tensor(PICTURE_OUTPUT, picture))
            size_bytes = picture.nbytes
        self._send(self._response(fields, tensors))
        if fields["event"] in _PACED:
            now_s = time.monotonic()
            gap_s = max(_LEAST_GAP_S, _GAP_OF_AGE * (now_s - self._begun_s))
            self._not_before_s = now_s + gap_s * max(1.0, size_bytes / _GAP_BYTES)

    def _response(self, fields: dict[str, Any], tensors: Sequence[Any]) -> Any:
        """An event's response; its number is the next one.

        Raises:
            ValidationError: the fields are not those of the event.
        """
        named = {"request_id": self.request_id, "seq": self._seq, **fields}
        named["at_s"] = round(time.monotonic() - self._begun_s, 6)
        event = EVENT_ADAPTER.validate_python(named)
        self._seq += 1
        told = pb_utils.Tensor(EVENT_OUTPUT, stub.as_flat(event.model_dump_json().encode()))
        return pb_utils.InferenceResponse([told, *tensors])

    def _send(self, response: Any, *, final: bool = False) -> None:
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        try:
            self._sender.send(response, flags=flags)
        except Exception as error:  # to a client that has gone
            log.debug("request %r: %s", self.request_id, error)
