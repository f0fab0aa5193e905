"""What Triton's own error messages mean, where its status code does not say."""

from __future__ import annotations

import re

PROCESS_DEAD = "is not healthy"
_PROCESS_ENDED = re.compile(
    rf"Stub process( '[^']+')? {PROCESS_DEAD}"  # it has ended; also behind an ensemble
    r"|Failed to obtain the health mutex"  # it has ended with its lock
    r"|Model '[^']+' is not ready"  # it is being loaded again
    r"|Request for unknown model: '[^']+' "
    r"(has no available versions|version -?\d+ is not at ready state)"
)
_SERVER_STOPPING = re.compile(r"Server not ready|Server is stopping")


def process_ended(message: str) -> bool:
    """Whether a model's process has ended, or its successor is being started."""
    return _PROCESS_ENDED.search(message) is not None


def server_stopping(message: str) -> bool:
    """Whether the server is being stopped."""
    return _SERVER_STOPPING.search(message) is not None
