"""HTTP/2 by hand, as no library speaks it wrong or slowly: frames, and gRPC calls in them."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable
from types import TracebackType

from tritonclient.grpc.service_pb2 import ModelInferRequest

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
_INITIAL_WINDOW_SIZE = 4
_CALL = "/inference.GRPCInferenceService/ModelInfer"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(initial_window: int | None = None) -> bytes:
    """What opens a connection; how many bytes each stream may send unasked."""
    if initial_window is None:
        return frame(SETTINGS, 0, 0)
    return frame(SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, initial_window))


def headers(stream: int, path: str = _CALL) -> bytes:
    """The head of a gRPC call, each field a literal that is not indexed (RFC 7541, 6.2.2)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return frame(HEADERS, END_HEADERS, stream, b"".join(_field(*each) for each in fields.items()))


def message(request: ModelInferRequest) -> bytes:
    """A gRPC message: not compressed, its length, its bytes."""
    content: bytes = request.SerializeToString()
    return struct.pack(">BI", 0, len(content)) + content


def _field(name: str, value: str) -> bytes:
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


class Connection:
    """A connection whose frames are sent and read one by one; a context manager."""

    def __init__(self, port: int, initial_window: int | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._seen = b""
        self.send(PREFACE, settings(initial_window))

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, *frames: bytes) -> None:
        """Sends these one after another."""
        self.socket.sendall(b"".join(frames))

    def send_call(self, stream: int, request: ModelInferRequest) -> None:
        """A whole call; its message has to fit the window of 64 KiB."""
        content = message(request)
        parts = [content[at : at + 16384] for at in range(0, len(content), 16384)]
        frames = [frame(DATA, 0, stream, part) for part in parts[:-1]]
        self.send(headers(stream), *frames, frame(DATA, END_STREAM, stream, parts[-1]))

    def grant(self, stream: int, size: int) -> None:
        """Lets the server send so many bytes more."""
        self.send(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size)))

    def read(self, seconds: float) -> Iterable[tuple[int, int, bytes]]:
        """Kind, stream and payload of the frames that come within this time; ends early where the
        server closes the connection."""
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left_s)
            try:
                received = self.socket.recv(65536)
            except TimeoutError:
                return
            except ConnectionError:
                return
            if not received:
                return
            self._seen += received
            while len(self._seen) >= 9:
                size = int.from_bytes(self._seen[:3], "big")
                if len(self._seen) < 9 + size:
                    break
                kind, flags, stream = struct.unpack(">BBI", self._seen[3:9])
                payload, self._seen = self._seen[9 : 9 + size], self._seen[9 + size :]
                if kind == SETTINGS and not flags & ACK:
                    self.send(frame(SETTINGS, ACK, 0))
                yield kind, stream, payload
