"""The meaning of Triton's error messages with an unspecific status code."""

from __future__ import annotations

import re

PROCESS_DEAD = "is not healthy"
_PROCESS_ENDED = re.compile(
    rf"Stub process( '[^']+')? {PROCESS_DEAD}"  # it has ended; also inside an ensemble
    r"|Failed to obtain the health mutex"  # it has ended while it held its lock
    r"|Model '[^']+' is not ready"  # it is being loaded again
    r"|Request for unknown model: '[^']+' "
    r"(has no available versions|version -?\d+ is not at ready state)"
)
_SERVER_STOPPING = re.compile(r"Server not ready|Server is stopping")


def process_ended(message: str) -> bool:
    """Whether a model's process has ended or is being replaced."""
    return _PROCESS_ENDED.search(message) is not None


def server_stopping(message: str) -> bool:
    """Whether the server is being stopped."""
    return _SERVER_STOPPING.search(message) is not None
