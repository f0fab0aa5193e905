"""How a call ends, in a word, and which of these words mean that its caller was let down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segs_client.contract import ErrorDetail

OK = "OK"
REFUSED = "UNAVAILABLE"
"""With the seconds after which to come again: nothing of the request was begun."""
LEFT = "left"
"""The caller has cancelled it."""
NO_ANSWER = "no answer"
"""Nothing came until the caller gave up, or the connection ended without a status."""
NO_RETRY = "UNAVAILABLE without retry_after_s"
SEG_FAILED = "a SEG failed"
UNREADABLE = "not by the contract"
LOST = frozenset({NO_ANSWER, NO_RETRY, SEG_FAILED, UNREADABLE, "INTERNAL", "UNKNOWN"})
"""What no caller who has stayed may see, however many there are."""


def lost(ends: Mapping[str, int]) -> int:
    """Calls that have ended as :data:`LOST`."""
    return sum(count for end, count in ends.items() if end in LOST)


def end_of(code: str, detail: ErrorDetail | None) -> str:
    """The end of a call that failed.

    Args:
        code: gRPC's name of the status; of a stream's error that of its detail.
        detail: the contract's words, where there were any.
    """
    if detail is None and code == "DEADLINE_EXCEEDED":  # the caller's own clock
        return NO_ANSWER
    if code == "UNAVAILABLE" and not (detail is not None and (detail.retry_after_s or 0) > 0):
        return NO_RETRY
    return code


def end_of_report(report: Mapping[str, Any]) -> str:
    """The end of a call that was answered."""
    failed = any(seg["status"] == "failed" for seg in report["segs"])
    return SEG_FAILED if failed else OK
