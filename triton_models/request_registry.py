"""Which process holds a request of the stages, and whether it is cancelled, as files.

Triton passes on neither cancellations nor deaths: a step of an ensemble does not learn that its
caller has gone, and a call that was inside a process when that died never ends. So a front end
notes each call under its token, each stage notes its process there, and a cancellation is a file,
which waits behind nothing. (Files in memory: a write takes 20 µs. In a server without a supervisor
there is no folder, and cancelled requests are worked on to their end.)
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from triton_models import state

_REQUESTS = "requests"
_CANCELLED = "cancelled"


@dataclass(frozen=True)
class RequestRegistry:
    """The requests that are inside the stages, by token.

    Args:
        place: the folder of states; None: nothing is noted.
    """

    place: Path | None

    @classmethod
    def of_environment(cls) -> RequestRegistry:
        """The registry of this server."""
        registry = cls(state.folder())
        if registry.place is not None:
            for name in (_REQUESTS, _CANCELLED):
                (registry.place / name).mkdir(exist_ok=True)
        return registry

    def enter(self, token: str) -> None:
        """A stage takes the request: from now on it is inside this process."""
        if self.place is not None:
            with contextlib.suppress(OSError):  # no room in memory: a death is noticed later
                (self.place / _REQUESTS / token).write_text(str(os.getpid()))

    def process_of(self, token: str) -> int | None:
        """The process that took the request last; None if none has."""
        if self.place is not None:
            with contextlib.suppress(OSError, ValueError):
                return int((self.place / _REQUESTS / token).read_text())
        return None

    def cancel(self, token: str) -> None:
        """The stages are to drop the request."""
        if self.place is not None:
            with contextlib.suppress(OSError):  # no room: it is worked on to its end
                (self.place / _CANCELLED / token).touch()

    def is_cancelled(self, token: str) -> bool:
        """Whether the request is to be dropped."""
        return self.place is not None and (self.place / _CANCELLED / token).exists()

    def cancelled(self) -> frozenset[str]:
        """All tokens that are to be dropped; takes some microseconds where there are few."""
        if self.place is not None:
            with contextlib.suppress(OSError):
                return frozenset(os.listdir(self.place / _CANCELLED))  # noqa: PTH208 - names only
        return frozenset()

    def forget(self, token: str) -> None:
        """The call has ended."""
        if self.place is not None:
            for name in (_REQUESTS, _CANCELLED):
                with contextlib.suppress(OSError):
                    (self.place / name / token).unlink(missing_ok=True)
