"""Claims ports, and finds the process that uses a port."""

from __future__ import annotations

import errno
import random
import socket
import threading
from pathlib import Path

import psutil

from serving.errors import PortTakenError

_lock = threading.Lock()
_given: set[int] = set()
_LOWEST = 10_000
_TRIES = 100
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def claim_port(host: str, port: int, flag: str) -> int:
    """Returns ``port`` if it can be bound on ``host``, or a free one for 0.

    A free one is below the range that the system takes ports of connections from, since the port
    is bound only later, by another process. It is returned only once in this process, so that
    servers started at the same time do not collide.

    Raises:
        PortTakenError: names the port, the process that uses it if visible, and ``flag``.
    """
    if port != 0:
        return _bind(host, port, flag)
    below = _ephemeral_from()
    with _lock:
        for _ in range(_TRIES):
            candidate = random.randrange(_LOWEST, below) if below > _LOWEST else 0
            try:
                bound = _bind(host, candidate, flag)
            except PortTakenError:
                if candidate == 0:
                    raise
                continue
            if bound not in _given:
                _given.add(bound)
                return bound
    return _bind(host, 0, flag)


def _ephemeral_from() -> int:
    """The first port that the system gives to connections; 0 if it is not known."""
    try:
        return int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def join_address(host: str, port: int) -> str:
    """``host:port``, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(host: str, port: int, flag: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As for the server: a connection in TIME_WAIT does not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTakenError(
                    f"port {port} on {host} is taken{_holder(port)}; choose another with "
                    f"{flag} PORT (0: any free one)"
                ) from None
            raise PortTakenError(
                f"cannot listen on {host} port {port}: {error.strerror}; see --host and {flag}"
            ) from None
        return int(probe.getsockname()[1])


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            listening = connection.status == psutil.CONN_LISTEN
            if listening and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    return ""
                name = psutil.Process(connection.pid).name()
                return f" by process {connection.pid} ({name})"
    except psutil.Error:
        return ""
    return ""
