"""Finding out whose caller has gone: :class:`DisconnectPoller`.

Triton reports it only to the model that a client calls, and only if asked. A question takes some
25 µs, and longer where the server is busy; so it is asked from a thread, never from an event loop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

_INTERVAL_S = 0.05
_SHARE = 4.0
"""So many times longer than a round of questions the pause after it is, at least."""


class DisconnectPoller:
    """Asks Triton in turn whether requests are cancelled: by their callers, by a closed connection,
    or by the deadline of the call."""

    def __init__(self) -> None:
        self._watched: dict[int, tuple[Any, Callable[[], object]]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="disconnects", daemon=True).start()

    def add(self, request: Any, on_cancelled: Callable[[], object]) -> None:
        """Asks about a request from now on.

        Args:
            on_cancelled: is called at most once, from the poller's thread.
        """
        self._watched[id(request)] = request, on_cancelled  # no lock: an event loop calls this

    def remove(self, request: Any) -> None:
        """Never asks about it again: it must not be after the last response. May wait for the
        question that is under way, so it is not for an event loop."""
        with self._lock:
            self._watched.pop(id(request), None)

    def _run(self) -> None:
        while True:
            begun_s = time.monotonic()
            for key in list(self._watched):
                self._ask(key)
            time.sleep(max(_INTERVAL_S, _SHARE * (time.monotonic() - begun_s)))

    def _ask(self, key: int) -> None:
        with self._lock:
            if (watched := self._watched.get(key)) is None:
                return
            request, on_cancelled = watched
            if request.is_cancelled():
                del self._watched[key]
                on_cancelled()
