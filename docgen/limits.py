"""The tables of docs/limits.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from docgen.tables import DOCS, filled, table
from request_plan.limits import LATER, REFUSED, WAITS, Limits
from segs_client.json_text import MAX_DEPTH
from segs_client.picture_files import MAX_PARTS, MAX_SCANS
from segs_client.picture_metadata import MAX_PROFILE_BYTES
from segs_client.wildcards import MAX_LEVELS

PAGE = DOCS / "limits.md"

_BEYOND = {REFUSED: "`INVALID_ARGUMENT`", LATER: "`UNAVAILABLE`", WAITS: "it waits"}


def limits_table() -> str:
    """The limits that an operator may change."""
    rows = [
        (f"`{each.name}`", _number(each.default), each.metadata["bounds"], _beyond(each.metadata))
        for each in fields(Limits)
    ]
    return table(("limit", "default", "bounds", "beyond it"), rows)


def parsers_table() -> str:
    """The fixed bounds of JSON and files."""
    rows = [
        ("levels of lists and objects in the JSON", f"{MAX_DEPTH}"),
        ("scans of a JPEG", f"{MAX_SCANS}"),
        ("chunks or segments of a picture file", f"{MAX_PARTS:,}"),
        ("pictures of an animation", "1"),
        ("bytes of an ICC profile; a longer one is ignored", f"{MAX_PROFILE_BYTES:,}"),
        ("wildcards in each other", f"{MAX_LEVELS}"),
    ]
    return table(("what", "most"), rows)


def limits_text() -> str:
    """docs/limits.md with its current tables."""
    text = PAGE.read_text(encoding="utf-8")
    tables = {"limits": limits_table(), "parsers": parsers_table()}
    return filled(text, tables)


def _beyond(metadata: Mapping[str, Any]) -> str:
    beyond: str = metadata["beyond"]
    return _BEYOND.get(beyond, beyond)


def _number(value: Any) -> str:
    return "none" if value is None else f"{value:,.0f}"
