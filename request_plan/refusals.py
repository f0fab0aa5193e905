"""Why a request that is valid was not done; each becomes an error of the contract."""

from __future__ import annotations


class DeadlineExceededError(Exception):
    """A request's deadline passed before it was done."""


class CancelledByClientError(Exception):
    """The client has gone or cancelled; no answer is waited for."""

    def __init__(self, why: str = "the client has gone") -> None:
        super().__init__(why)


TRY_AGAIN = ": try again in "


class UnavailableError(Exception):
    """The request was not done, and may be sent again.

    ``retry_after_s``: when there is hope that it will be, by estimate.
    """

    def __init__(self, why: str, retry_after_s: float) -> None:
        super().__init__(f"{why}{TRY_AGAIN}{retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class OverloadedError(UnavailableError):
    """There is too much work already, by the limit of this name; the request was not begun."""

    WHY = "overloaded"
    """How the message begins."""

    def __init__(self, retry_after_s: float, limit: str) -> None:
        super().__init__(f"{self.WHY} ({limit})", retry_after_s)


class StoppingError(UnavailableError):
    """The server takes no new work, or ended this: it is being stopped."""

    def __init__(self) -> None:
        super().__init__("the server is stopping", _RESTART_S)


class LostError(UnavailableError):
    """A process that worked on the request died, and again when it was repeated."""

    def __init__(self) -> None:
        super().__init__("a part of the server died meanwhile", _RESTART_S)


_RESTART_S = 5.0
"""What a server needs to come back, or another one to take over."""
