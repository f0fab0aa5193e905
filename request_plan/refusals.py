"""Why a valid request was not done; each exception becomes an error of the contract."""

from __future__ import annotations


class DeadlineExceededError(Exception):
    """A request's deadline passed before it was done."""


class CancelledByClientError(Exception):
    """The client has disconnected or cancelled the call."""

    def __init__(self, why: str = "the client has gone") -> None:
        super().__init__(why)


TRY_AGAIN = ": try again in "


class UnavailableError(Exception):
    """The request was not done and may be sent again after an estimated ``retry_after_s``."""

    def __init__(self, why: str, retry_after_s: float) -> None:
        super().__init__(f"{why}{TRY_AGAIN}{retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class OverloadedError(UnavailableError):
    """The request would exceed the named limit; it was not started."""

    WHY = "overloaded"
    """The beginning of the message."""

    def __init__(self, retry_after_s: float, limit: str) -> None:
        super().__init__(f"{self.WHY} ({limit})", retry_after_s)


class StoppingError(UnavailableError):
    """The server is stopping: it refuses new requests and ends those it has."""

    def __init__(self) -> None:
        super().__init__("the server is stopping", _RESTART_S)


class LostError(UnavailableError):
    """A process died while it ran the request, and again when the work was repeated."""

    def __init__(self) -> None:
        super().__init__("a part of the server died meanwhile", _RESTART_S)


_RESTART_S = 5.0
"""Usual time until the server is ready again, or another one replaces it."""
