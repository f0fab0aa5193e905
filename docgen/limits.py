"""The tables of docs/limits.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from docgen.tables import DOCS, filled, table
from request_plan.limits import LATER, REFUSED, WAITS, Limits
from segs_client.contract import request_schema
from segs_client.json_text import MAX_DEPTH
from segs_client.picture_files import MAX_PARTS, MAX_SCANS
from segs_client.ranges import allowed_values
from segs_client.wildcards import MAX_LEVELS

PAGE = DOCS / "limits.md"

_BEYOND = {REFUSED: "`INVALID_ARGUMENT`", LATER: "`UNAVAILABLE`", WAITS: "it waits"}
_BOUNDED = ("maximum", "maxLength", "maxItems", "maxProperties", "pattern")


def limits_table() -> str:
    """What an operator may change."""
    rows = [
        (f"`{each.name}`", _number(each.default), each.metadata["bounds"], _beyond(each.metadata))
        for each in fields(Limits)
    ]
    return table(("limit", "default", "bounds", "beyond it"), rows)


def parsers_table() -> str:
    """What the readers of JSON and files bound, whatever is chosen."""
    rows = [
        ("levels of lists and objects in the JSON", f"{MAX_DEPTH}"),
        ("scans of a JPEG", f"{MAX_SCANS}"),
        ("chunks or segments of a picture file", f"{MAX_PARTS:,}"),
        ("pictures in a file", "1"),
        ("wildcards in each other", f"{MAX_LEVELS}"),
    ]
    return table(("what", "most"), rows)


def contract_table() -> str:
    """The bounded fields of a request, as its schema says."""
    schema = request_schema()
    models = {"": schema, **schema["$defs"]}
    rows = [row for name, model in models.items() for row in _bounded(name, model, schema)]
    return table(("field", "allowed"), rows)


def limits_text() -> str:
    """docs/limits.md with its tables as they have to be."""
    text = PAGE.read_text(encoding="utf-8")
    tables = {"limits": limits_table(), "parsers": parsers_table(), "contract": contract_table()}
    return filled(text, tables)


def _bounded(
    name: str, model: Mapping[str, Any], schema: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    for field, node in model.get("properties", {}).items():
        choices = [node, *node.get("anyOf", ())]
        allowed = allowed_values(next((c for c in choices if _is_bounded(c)), None), schema)
        if allowed:
            yield f"`{name}.{field}`" if name else f"`{field}`", allowed.replace("|", "\\|")


def _is_bounded(node: Mapping[str, Any]) -> bool:
    return any(key in node for key in _BOUNDED)


def _beyond(metadata: Mapping[str, Any]) -> str:
    beyond: str = metadata["beyond"]
    return _BEYOND.get(beyond, beyond)


def _number(value: Any) -> str:
    return "none" if value is None else f"{value:,.0f}"
