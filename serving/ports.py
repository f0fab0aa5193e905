"""Claims ports, and finds the process that uses a port."""

from __future__ import annotations

import errno
import socket
import threading

import psutil

from serving.errors import PortTakenError

_lock = threading.Lock()
_given: set[int] = set()


def claim_port(host: str, port: int, flag: str) -> int:
    """Returns ``port`` if it can be bound on ``host``, or a free one for 0.

    A port chosen by the system is returned only once in this process, so that servers started at
    the same time do not collide.

    Raises:
        PortTakenError: names the port, the process that uses it if visible, and ``flag``.
    """
    with _lock:
        while True:
            bound = _bind(host, port, flag)
            if port != 0:
                return bound
            if bound not in _given:
                _given.add(bound)
                return bound


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
