"""A front end's counters of ended requests."""

from __future__ import annotations

from sampling.statistics import Counter, Observations
from segs_client.contract import ErrorCode

REFUSED: tuple[ErrorCode, ...] = (
    "INVALID_ARGUMENT",
    "UNAUTHENTICATED",
    "NOT_FOUND",
    "UNAVAILABLE",
)
"""Codes of requests that the caller has to correct or to send again later."""
FAILED: tuple[ErrorCode, ...] = ("DEADLINE_EXCEEDED", "INTERNAL")
"""Codes of requests that failed in flight."""


class FrontEndStats:
    """Counters since the start, and durations of requests.

    Args:
        model: the front end's.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.answered = Counter([(model,)])
        self.refused = Counter([(model, code) for code in REFUSED])
        """By code."""
        self.failed = Counter([(model, code) for code in FAILED])
        """By code."""
        self.cancelled = Counter([(model, cause) for cause in ("gone", "asked")])
        """By cause: the client has disconnected, or a call has cancelled the request."""
        self.seconds = Observations()

    def ended(
        self, seconds: float, code: ErrorCode | None = None, *, by_call: bool = False
    ) -> None:
        """Counts an ended request.

        Args:
            code: of its error; None: it has a result.
            by_call: whether a call cancelled it.
        """
        self.seconds.add(seconds, self.model)
        if code is None:
            self.answered.add(self.model)
        elif code == "CANCELLED":
            self.cancelled.add(self.model, "asked" if by_call else "gone")
        elif code in REFUSED:
            self.refused.add(self.model, code)
        else:
            self.failed.add(self.model, code)
