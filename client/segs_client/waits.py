"""Calls that wait for their next try: closing the client, or cancelling them, ends that at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol, TypeVar

from segs_client.errors import Cancelled


class Event(Protocol):
    """What :class:`threading.Event` and :class:`asyncio.Event` have in common."""

    def set(self) -> None:
        """Wakes who waits for it."""

    def is_set(self) -> bool:
        """Whether that has happened."""


E = TypeVar("E", bound=Event)


class Waits:
    """Those of one client; safe to share between threads."""

    def __init__(self) -> None:
        self._ends: dict[Event, str | None] = {}
        self._is_closed = False

    @contextlib.contextmanager
    def begun(self, end: E, request_id: str | None) -> Iterator[E]:
        """A wait, which is for ``end`` to be set or the time to pass.

        Raises:
            Cancelled: after the block, where it was ended.
        """
        self._ends[end] = request_id
        if self._is_closed:  # looked at after it was added, so that no wait is missed
            end.set()
        try:
            yield end
        finally:
            del self._ends[end]
        if end.is_set():
            why = "the client was closed" if self._is_closed else "the call was cancelled"
            raise Cancelled(f"{why} before its next try", request_id=request_id or "")

    def end(self, request_id: str) -> bool:
        """Ends those of a request; whether there were any."""
        found = [end for end, waits in tuple(self._ends.items()) if waits == request_id]
        for end in found:
            end.set()
        return bool(found)

    def close(self) -> None:
        """Ends all, also those that begin after this."""
        self._is_closed = True
        for end in tuple(self._ends):
            end.set()
