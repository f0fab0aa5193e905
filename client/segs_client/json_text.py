"""Untrusted JSON: its size is checked before it is parsed, its names afterwards.

The cost of a byte of JSON varies by a factor of 100: ``[],`` makes an object, and possibly an
error, of every three bytes. So values are bounded, too. The depth is bounded by pydantic's parser:
:data:`MAX_DEPTH` levels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from segs_client.refusals import invalid

MAX_DEPTH = 200
"""Allowed levels of nested lists and objects; the parser's own bound is one or two more."""

FIELD = "request"


@dataclass(frozen=True)
class JsonLimits:
    """Limits of a JSON text.

    Attributes:
        max_bytes: of the whole text; pictures and masks are in their own tensors.
        max_containers: lists and objects, counted by the brackets that open them, also in texts.
        max_names: names in objects, counted by colons, also in texts.
        max_values: counted by commas, also in texts.
    """

    max_bytes: int = 4 << 20
    max_containers: int = 50_000
    max_names: int = 50_000
    max_values: int = 200_000


def check_size(text: bytes, limits: JsonLimits) -> None:
    """Refuses a text that would take long to parse; takes about a millisecond per MiB.

    Raises:
        ContractError: it is too long, or has too many values.

    Example:
        >>> check_size(b"[[], []]", JsonLimits(max_containers=2))
        Traceback (most recent call last):
        ...
        segs_client.refusals.ContractError: request: too many lists and objects (got 3); ...
    """
    if len(text) > limits.max_bytes:
        allowed = f"at most {limits.max_bytes} bytes"
        raise invalid(FIELD, f"too long: {len(text)} bytes", allowed=allowed)
    for message, marks, most in (
        ("too many lists and objects", (b"[", b"{"), limits.max_containers),
        ("too many colons", (b":",), limits.max_names),
        ("too many commas", (b",",), limits.max_values),
    ):
        found = sum(map(text.count, marks))
        if found > most:
            raise invalid(FIELD, message, value=found, allowed=f"at most {most}")


def check_names(text: bytes) -> None:
    """Refuses JSON with a name twice in one object, which parsers read differently.

    Args:
        text: valid JSON.

    Raises:
        ContractError: has the name.
    """
    json.loads(text, object_pairs_hook=_distinct)


def _distinct(members: list[tuple[str, Any]]) -> None:
    names = {name for name, _ in members}
    if len(names) == len(members):
        return
    for name, _ in members:
        if name not in names:
            raise invalid(FIELD, "a name twice in one object", value=name, allowed="each once")
        names.remove(name)
