"""Files that contain the process of each request in the stages, and whether it is cancelled.

Triton reports neither cancellations nor deaths: a step of an ensemble is not notified of a
disconnected caller, and a call inside a process that dies never ends. So a front end gives each
call a token, each stage writes its process id into the token's file, and a cancellation is a file.
(The files are in memory; a write takes 20 µs. A server without a supervisor has no such folder, and
does cancelled requests to their end.)
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
    """The requests in the stages, by token.

    Args:
        place: the folder of states; None: nothing is written.
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
        """Records that the request is in this process."""
        if self.place is not None:
            with contextlib.suppress(OSError):  # no memory left: a death is noticed later
                (self.place / _REQUESTS / token).write_text(str(os.getpid()))

    def process_of(self, token: str) -> int | None:
        """The last process that recorded the request, if any."""
        if self.place is not None:
            with contextlib.suppress(OSError, ValueError):
                return int((self.place / _REQUESTS / token).read_text())
        return None

    def cancel(self, token: str) -> None:
        """Marks the request as cancelled, so that the stages drop it."""
        if self.place is not None:
            with contextlib.suppress(OSError):  # no memory left: it is done to its end
                (self.place / _CANCELLED / token).touch()

    def is_cancelled(self, token: str) -> bool:
        """Whether the request is cancelled."""
        return self.place is not None and (self.place / _CANCELLED / token).exists()

    def cancelled(self) -> frozenset[str]:
        """The tokens of all cancelled requests; takes microseconds."""
        if self.place is not None:
            with contextlib.suppress(OSError):
                return frozenset(os.listdir(self.place / _CANCELLED))  # noqa: PTH208 - names only
        return frozenset()

    def forget(self, token: str) -> None:
        """Removes the files of an ended call."""
        if self.place is not None:
            for name in (_REQUESTS, _CANCELLED):
                with contextlib.suppress(OSError):
                    (self.place / name / token).unlink(missing_ok=True)
