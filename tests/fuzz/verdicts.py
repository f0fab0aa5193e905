"""What came of a call, and whether it may have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Verdict = Literal[
    "answered", "refused", "late", "foreign", "failed", "anonymous", "hang", "leak", "wrong", "gone"
]
"""``late``: the request's own time ran out. ``foreign``: INTERNAL of gRPC or Triton itself, which
refuse so what none of our code has seen. ``failed``: the server's fault, with an id that its log
explains. All after it must not be."""
BAD: tuple[Verdict, ...] = ("anonymous", "hang", "leak", "wrong", "gone")

HANG_S = 10.0
"""A call that has no answer by then hangs."""

_OURS = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS", "ABORTED"})
_INCIDENT = re.compile(r"(?:incident|internal error) [0-9a-f]{12}")
_LEAK = re.compile(
    r"\.py\b|Traceback|site-packages|/dev/shm|/tmp/|/home/|/root/|/work/|/opt/|/usr/|0x[0-9a-f]{8}"
)
# Of gRPC, for bytes that are no message; of Triton, for a batch of 0 rows.
_FOREIGN = re.compile(r"Unable to parse request|batch size \d+ for '\w+', max allowed is \d+")


@dataclass(frozen=True)
class Outcome:
    """What a client saw."""

    code: str
    """Of gRPC, or ``OK``; of a bare connection ``answered``, ``closed`` or ``ignored``."""
    text: str
    seconds: float
    body: bytes = b""


def judge(outcome: Outcome, sent: bytes) -> Verdict:
    """The verdict on an outcome.

    Args:
        sent: the request; what it brought itself is no leak.
    """
    if outcome.code == "OK":
        return "answered"
    if outcome.code in ("answered", "closed", "ignored"):
        return "refused"
    if outcome.code == "DEADLINE_EXCEEDED" and outcome.seconds > 0.95 * HANG_S:
        return "hang"
    if outcome.code == "UNAVAILABLE" and "connect" in outcome.text:
        return "gone"
    leak = _LEAK.search(outcome.text)
    if leak is not None and leak[0].encode() not in sent:
        return "leak"
    if outcome.code in ("CANCELLED", "DEADLINE_EXCEEDED"):
        return "late"
    if outcome.code not in _OURS:
        return "refused"
    if _INCIDENT.search(outcome.text):
        return "failed"
    return "foreign" if _FOREIGN.fullmatch(outcome.text) else "anonymous"
