"""Waits of calls before their next try, which end if the client is closed or the call cancelled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol, TypeVar

from segs_client.errors import Cancelled


class Event(Protocol):
    """The common methods of :class:`threading.Event` and :class:`asyncio.Event`."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...


E = TypeVar("E", bound=Event)


class Waits:
    """The waits of one client; thread-safe."""

    def __init__(self) -> None:
        self._ends: dict[Event, str | None] = {}
        self._is_closed = False

    @contextlib.contextmanager
    def begun(self, end: E, request_id: str | None) -> Iterator[E]:
        """Registers a wait, which the block does until ``end`` is set or the time has passed.

        Raises:
            Cancelled: after the block, if ``end`` was set.
        """
        self._ends[end] = request_id
        if self._is_closed:  # read after the wait was added, so that no wait is missed
            end.set()
        try:
            yield end
        finally:
            del self._ends[end]
        if end.is_set():
            why = "the client was closed" if self._is_closed else "the call was cancelled"
            raise Cancelled(f"{why} before its next try", request_id=request_id or "")

    def end(self, request_id: str) -> bool:
        """Ends the waits of a request; returns whether there were any."""
        found = [end for end, waits in tuple(self._ends.items()) if waits == request_id]
        for end in found:
            end.set()
        return bool(found)

    def close(self) -> None:
        """Ends all present and future waits."""
        self._is_closed = True
        for end in tuple(self._ends):
            end.set()
