"""How many requests may be inside the door at once, and how large they may be together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from preprocessing.limits import Limits
from preprocessing.plan import OverloadedError

_FULL_S = 1.0
"""When to try again where there is no room."""
_MORE_THAN_REQUESTS = 64
"""Beyond what the engine admits: who is on the way to its refusal."""


@dataclass
class Room:
    """Who is inside. To be used from one thread.

    Args:
        limits: ``max_requests`` and ``max_message_bytes`` of it; a request that finds nobody
            inside gets in, however large it is.
    """

    limits: Limits
    requests: int = 0
    held_bytes: int = 0
    """Of their tensors."""

    @property
    def places(self) -> int:
        """Most requests inside."""
        return self.limits.max_requests + _MORE_THAN_REQUESTS

    @contextlib.contextmanager
    def taken(self, size_bytes: int) -> Iterator[None]:
        """Room for a request of that size while inside.

        Raises:
            OverloadedError: there is none.
        """
        together_bytes = self.held_bytes + size_bytes
        too_large = self.requests > 0 and together_bytes > self.limits.max_message_bytes
        if too_large or self.requests >= self.places:
            raise OverloadedError(_FULL_S)
        self.requests += 1
        self.held_bytes = together_bytes
        try:
            yield
        finally:
            self.requests -= 1
            self.held_bytes -= size_bytes
