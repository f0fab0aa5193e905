"""The meaning of Triton's error messages with an unspecific status code."""

from __future__ import annotations

import re

_PROCESS_DEAD = re.compile(
    r"is not healthy"  # it has ended; also inside an ensemble
    r"|Failed to obtain the health mutex",  # it has ended while it held its lock
    re.IGNORECASE,
)
_PROCESS_MISSING = re.compile(
    r"Model '[^']+' is not ready"  # it is being loaded again
    r"|has no available versions|is not at ready state"
)
_SERVER_STOPPING = re.compile(r"Server not ready|Server is stopping")


def process_died(message: str) -> bool:
    """Whether a model's process has ended with the request inside."""
    return _PROCESS_DEAD.search(message) is not None


def process_ended(message: str) -> bool:
    """Whether a model's process has ended or is being replaced."""
    return process_died(message) or _PROCESS_MISSING.search(message) is not None


def server_stopping(message: str) -> bool:
    """Whether the server is being stopped."""
    return _SERVER_STOPPING.search(message) is not None
