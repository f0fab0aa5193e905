"""What a front end counts: how its requests ended."""

from __future__ import annotations

from sampling.statistics import Counter, Observations
from segs_client.contract import ErrorCode

REFUSED: tuple[ErrorCode, ...] = (
    "INVALID_ARGUMENT",
    "UNAUTHENTICATED",
    "NOT_FOUND",
    "UNAVAILABLE",
)
"""The caller has to correct the request, or to send it again later."""
FAILED: tuple[ErrorCode, ...] = ("DEADLINE_EXCEEDED", "INTERNAL")
"""It ended while it was in flight."""


class FrontEndStats:
    """Counters since the start, and what requests took.

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
        """By cause: the client has gone, or a call asked for it."""
        self.seconds = Observations()

    def ended(self, seconds: float, code: ErrorCode | None = None, *, asked: bool = False) -> None:
        """Takes in a request's end.

        Args:
            code: of its error; None: it has a result.
            asked: whether a call cancelled it.
        """
        self.seconds.add(seconds, self.model)
        if code is None:
            self.answered.add(self.model)
        elif code == "CANCELLED":
            self.cancelled.add(self.model, "asked" if asked else "gone")
        elif code in REFUSED:
            self.refused.add(self.model, code)
        else:
            self.failed.add(self.model, code)
