"""(d) What is neither gRPC nor HTTP, or only nearly, on every port."""

from __future__ import annotations

import random
import socket
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_CONNECT_S = 10.0
_READ_S = 0.05
"""How long an answer is waited for; the other end may well wait for more instead."""

_DATA, _HEADERS, _PRIORITY, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = range(
    10
)


def frame(kind: int, flags: int, stream: int, data: bytes, length: int | None = None) -> bytes:
    """An HTTP/2 frame; ``length`` where it is to lie."""
    size = len(data) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + data


def hostile_http2(rng: random.Random) -> bytes:
    """Nearly HTTP/2."""
    settings = frame(_SETTINGS, 0, 0, b"")
    kind = rng.randrange(9)
    if kind == 0:
        return PREFACE[: rng.randrange(len(PREFACE))]
    if kind == 1:
        return PREFACE + rng.randbytes(rng.choice([1, 9, 200, 100_000]))
    if kind == 2:
        return PREFACE + settings + frame(rng.randrange(256), rng.randrange(256), 1, b"x" * 20)
    if kind == 3:
        return (
            PREFACE
            + settings
            + frame(_HEADERS, 4, 1, rng.randbytes(50), rng.choice([0, 2**24 - 1]))
        )
    if kind == 4:
        opened = frame(_HEADERS, 0, 1, b"\x82" * 5)
        return PREFACE + settings + opened + frame(_CONTINUATION, 0, 1, b"\x82" * 100) * 200
    if kind == 5:
        values = struct.pack(">HI", rng.randrange(9), rng.choice([0, 1, 2**31, 2**32 - 1]))
        return PREFACE + frame(_SETTINGS, 0, 0, values * rng.choice([1, 50]))
    if kind == 6:
        return PREFACE + settings + frame(_PING, 0, 0, bytes(8)) * 500
    if kind == 7:
        reset = [frame(_HEADERS, 5, 2 * n + 1, b"\x82\x86") + frame(_RST, 0, 2 * n + 1, bytes(4))
                 for n in range(200)]  # fmt: skip
        return PREFACE + settings + b"".join(reset)
    window = frame(_WINDOW, 0, rng.choice([0, 1]), struct.pack(">I", rng.choice([0, 2**31 - 1])))
    return PREFACE + settings + window * 3 + frame(_GOAWAY, 0, 0, bytes(8))


def hostile_http(rng: random.Random) -> bytes:
    """Nearly HTTP/1, or something else altogether."""
    path = rng.choice(["/health/ready", "/v2/health/ready", "/v2/models/segs_detailer/infer", "/"])
    kind = rng.randrange(10)
    if kind == 0:
        return rng.randbytes(rng.choice([1, 10, 1000, 70_000]))
    if kind == 1:
        return f"GET {path} HTTP/1.1\r\nHost: x\r\n{'X-A: ' + 'a' * 70_000}\r\n\r\n".encode()
    if kind == 2:
        many = "".join(f"X-{n}: {n}\r\n" for n in range(500))
        return f"GET {path} HTTP/1.1\r\nHost: x\r\n{many}\r\n".encode()
    if kind == 3:
        return f"GET {'/a' * 40_000} HTTP/1.1\r\n\r\n".encode()
    if kind == 4:
        return f"GET {path} HTTP/1.1\r\nHost".encode()
    if kind == 5:
        length = rng.choice(["-1", "99999999999999999999", "x", "10"])
        return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\nab".encode()
    if kind == 6:
        chunks = rng.choice(["zz\r\n", "ffffffffffffffff\r\na", "-1\r\n"])
        return f"POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}".encode()
    if kind == 7:
        return f"GET {path}/../../etc/passwd%00 HTTP/1.0\r\n\r\n".encode() * 20
    if kind == 8:
        version = rng.choice(["HTTP/9.9", "HTTP/", "", "x" * 5000, "HTTP/1.1.1", "HTTP/-1"])
        return f"{rng.choice(['GET', 'CONNECT', 'é', ''])} {path} {version}\r\n\r\n".encode()
    # The beginning of TLS.
    return b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(rng.randrange(300))


def send(host: str, port: int, data: bytes) -> tuple[str, float]:
    """Sends bytes on a connection of their own.

    Returns:
        ``closed`` by the other end, ``answered`` or ``ignored``; and the seconds until then.

    Raises:
        OSError: no process listens any more.
    """
    begun = time.perf_counter()
    with socket.create_connection((host, port), timeout=_CONNECT_S) as connection:
        try:
            connection.sendall(data)
            connection.settimeout(_READ_S)
            answer = connection.recv(65_536)
        except TimeoutError:
            return "ignored", time.perf_counter() - begun
        except OSError:
            return "closed", time.perf_counter() - begun
    return "answered" if answer else "closed", time.perf_counter() - begun
