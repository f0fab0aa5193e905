"""Detects disconnected clients: :class:`DisconnectPoller`.

Triton reports a disconnect only to the model that a client calls, and only by polling. A poll takes
about 25 µs, and longer on a busy server, so it runs in a thread and never in an event loop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

_INTERVAL_S = 0.05
_SHARE = 4.0
"""The pause after a round of polls is at least this factor longer than the round."""


class DisconnectPoller:
    """Polls Triton whether requests are cancelled: by their callers, by a closed connection, or by
    the deadline of the call."""

    def __init__(self) -> None:
        self._watched: dict[int, tuple[Any, Callable[[], object]]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="disconnects", daemon=True).start()

    def add(self, request: Any, on_cancelled: Callable[[], object]) -> None:
        """Starts to poll a request.

        Args:
            on_cancelled: called at most once, from the poller's thread.
        """
        self._watched[id(request)] = request, on_cancelled  # no lock: called in an event loop

    def remove(self, request: Any) -> None:
        """Stops polling a request, which must not be polled after its last response. May wait for a
        running poll, so it must not be called in an event loop."""
        with self._lock:
            self._watched.pop(id(request), None)

    def _run(self) -> None:
        while True:
            begun_s = time.monotonic()
            for key in list(self._watched):
                self._poll(key)
            time.sleep(max(_INTERVAL_S, _SHARE * (time.monotonic() - begun_s)))

    def _poll(self, key: int) -> None:
        with self._lock:
            if (watched := self._watched.get(key)) is None:
                return
            request, on_cancelled = watched
            if request.is_cancelled():
                del self._watched[key]
                on_cancelled()
