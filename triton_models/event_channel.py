"""Events from the step engine to the front end of streams, over a Unix socket.

Triton sends a response of an ensemble only when it is complete. So events are sent over a socket in
the server's folder of states. A frame is a head (two lengths), JSON, and bytes of uint8 pixels.
Events that are not read in time are lost; the engine never waits for a reader.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import socket
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segs_client.arrays import ByteArray
from triton_models import environment
from triton_models.internal_token import INTERNAL
from triton_models.state import folder

if TYPE_CHECKING:
    import torch  # the front ends do not need it

log = logging.getLogger(__name__)

END = "end"
"""The event of the message after the last one of a request."""
EventHandler = Callable[[dict[str, Any], bytes], None]
"""Called with a message's fields and pixels."""

_SOCKET = "events"
_HEAD = struct.Struct("!II")
_MOST_JSON_BYTES = 1 << 16
_MOST_PIXEL_BYTES = 1 << 28
_MOST_WAITING = 20_000
"""Most waiting messages."""
_MOST_WAITING_BYTES = 128 << 20
"""Most bytes of waiting pixels."""
_AGAIN_S = 0.5


def channel_path() -> Path | None:
    """Path of the socket; None in a server without a supervisor."""
    place = folder()
    return None if place is None else place / _SOCKET


@dataclass(frozen=True)
class _Message:
    fields: Mapping[str, Any]
    pixels: ByteArray | torch.Tensor | None = None

    @property
    def pixel_bytes(self) -> int:
        return 0 if self.pixels is None else int(self.pixels.nbytes)

    def frame(self) -> tuple[bytes, bytes]:
        """The frame; not to be called in the engine's loop, since it waits for a GPU's pixels."""
        fields, pixels = dict(self.fields), self.pixels
        body = b""
        if pixels is not None:
            array = pixels if isinstance(pixels, np.ndarray) else pixels.cpu().numpy()
            fields["shape"] = array.shape
            body = array.tobytes()
        text = json.dumps(fields).encode()
        return _HEAD.pack(len(text), len(body)) + text, body


class EventPublisher:
    """The engine's end: queues events without waiting and sends them in a thread.

    A message replaces a waiting one with the same key, at its position. Above a number of messages
    and of bytes of pixels, new ones are lost.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._waiting: OrderedDict[tuple[object, ...], _Message] = OrderedDict()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self.lost = 0
        """Messages lost since the start."""
        if path is not None:
            threading.Thread(target=self._run, name="events", daemon=True).start()

    def put(
        self,
        key: tuple[object, ...],
        fields: Mapping[str, Any],
        pixels: ByteArray | torch.Tensor | None = None,
    ) -> None:
        """Queues an event; thread-safe.

        Args:
            pixels: uint8 ``[h, w, 3]``, on any device; must not be changed afterwards.
        """
        message = _Message(fields, pixels)
        with self._changed:
            before = self._waiting.get(key)
            size_bytes = self._waiting_bytes + message.pixel_bytes
            size_bytes -= 0 if before is None else before.pixel_bytes
            full = before is None and len(self._waiting) >= _MOST_WAITING
            if self._path is None or full or size_bytes > _MOST_WAITING_BYTES:
                self.lost += 1
                return
            self._waiting[key] = message
            self._waiting_bytes = size_bytes
            self._changed.notify()

    def _take(self) -> _Message:
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            _, message = self._waiting.popitem(last=False)
            self._waiting_bytes -= message.pixel_bytes
            return message

    def _run(self) -> None:
        while True:
            first = self._take()
            try:
                with self._connected() as connection:
                    self._send(connection, first)
                    while True:
                        self._send(connection, self._take())
            except OSError as error:
                log.debug("events are lost: %s", error)
                self._forget()
                time.sleep(_AGAIN_S)

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self._path))
            token = os.environ.get(environment.INTERNAL_TOKEN, "")
            self._send(connection, _Message({INTERNAL: token}))
        except BaseException:
            connection.close()
            raise
        return connection

    @staticmethod
    def _send(connection: socket.socket, message: _Message) -> None:
        head, body = message.frame()
        connection.sendall(head)
        connection.sendall(body)

    def _forget(self) -> None:
        """Drops the waiting messages and the one that was being sent."""
        with self._changed:
            self.lost += 1 + len(self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0


class EventSubscriber:
    """The front end's end: calls the handler that subscribed to an event's ``token``.

    To be used from one event loop.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._handlers: dict[str, EventHandler] = {}
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Starts to listen."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)  # of an earlier process
            self._server = await asyncio.start_unix_server(self._serve, self._path)
            self._path.chmod(0o600)

    def subscribe(self, token: str, handler: EventHandler) -> None:
        """Calls the handler with the events of a token, in the event loop."""
        self._handlers[token] = handler

    def unsubscribe(self, token: str) -> None:
        """Drops further events of a token."""
        self._handlers.pop(token, None)

    def __len__(self) -> int:
        """The number of tokens with a handler."""
        return len(self._handlers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            fields, _ = await _read(reader)
            token = os.environ.get(environment.INTERNAL_TOKEN, "")
            if not hmac.compare_digest(str(fields.get(INTERNAL)).encode(), token.encode()):
                return
            while True:
                fields, pixels = await _read(reader)
                handler = self._handlers.get(fields.pop("token", ""))
                if handler is not None:
                    handler(fields, pixels)
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass  # asyncio's own callback fails on a cancelled task, as at the loop's end
        except Exception:
            log.exception("a message of the engine cannot be read")
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> tuple[dict[str, Any], bytes]:
    """One frame.

    Raises:
        ValueError: it is too long, or no JSON.
    """
    json_bytes, pixel_bytes = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    if json_bytes > _MOST_JSON_BYTES or pixel_bytes > _MOST_PIXEL_BYTES:
        raise ValueError(f"a frame of {json_bytes} + {pixel_bytes} bytes")
    fields = json.loads(await reader.readexactly(json_bytes))
    return fields, await reader.readexactly(pixel_bytes)
