"""Describes the values that a JSON Schema allows, for error messages and the CLI's help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Node = Mapping[str, Any]


def node_at(schema: Node, path: Sequence[str | int]) -> Node | None:
    """The sub-schema of the value at ``path``, references and nullability resolved.

    Example:
        >>> node_at({"properties": {"steps": {"type": "integer"}}}, ["steps"])
        {'type': 'integer'}
    """
    node: Node | None = _resolved(schema, schema)
    for part in path:
        if node is None:
            return None
        if isinstance(part, int):
            fixed = node.get("prefixItems", ())
            child = fixed[part] if part < len(fixed) else node.get("items")
        else:
            named = node.get("patternProperties") or {"": None}
            child = node.get("properties", {}).get(part) or next(iter(named.values()))
        node = None if child is None else _resolved(child, schema)
    return node


def allowed_values(node: Node | None, schema: Node) -> str | None:
    """A description of the values that ``node`` accepts; None if there is none.

    Example:
        >>> allowed_values({"type": "number", "minimum": 64, "maximum": 16384}, {})
        '64 … 16384'
    """
    if node is None:
        return None
    if "const" in node:
        return repr(node["const"])
    if "enum" in node:
        return ", ".join(repr(value) for value in node["enum"])
    words = {
        "number": _numbers,
        "integer": _numbers,
        "string": _strings,
        "array": _arrays,
        "object": _objects,
    }
    kind = node.get("type")
    if kind == "boolean":
        text = "true or false"
    elif kind in words:
        text = words[kind](node, schema)
    else:
        return None
    return f"{text} or null" if node.get("nullable") else text


def _resolved(node: Node, schema: Node) -> Node:
    """Follows ``$ref`` and unwraps "this or null", keeping the description."""
    nullable = False
    outer = node
    if "allOf" in node:  # pydantic before 2.9 wraps a reference with a description
        node = node["allOf"][0]
    if "anyOf" in node:
        choices = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
        nullable = len(choices) < len(node["anyOf"])
        node = choices[0]
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    if node is outer:
        return node
    kept = {key: outer[key] for key in ("description", "default") if key in outer}
    return {**node, **kept, **({"nullable": True} if nullable else {})}


def _numbers(node: Node, schema: Node) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    whole = "whole numbers " if node["type"] == "integer" else ""
    if low is not None and high is not None:
        return f"{whole}{_number(low)} … {_number(high)}"
    if low is not None:
        return f"{whole}≥ {_number(low)}"
    if high is not None:
        return f"{whole}≤ {_number(high)}"
    return whole.strip() or "finite numbers"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _strings(node: Node, schema: Node) -> str:
    if "pattern" in node:
        return f"text matching {node['pattern']}"
    if "maxLength" in node:
        return f"text of at most {node['maxLength']} characters"
    return "text"


def _arrays(node: Node, schema: Node) -> str:
    fixed = node.get("prefixItems")
    if fixed:
        items = [allowed_values(_resolved(item, schema), schema) or "any" for item in fixed]
        if len(set(items)) == 1:
            return f"a list of {len(items)}, each {items[0]}"
        return "a list of " + "; ".join(items)
    low, high = node.get("minItems"), node.get("maxItems")
    count = f"{low} … {high} items" if low else f"at most {high} items" if high else "items"
    item = node.get("items")
    each = allowed_values(_resolved(item, schema), schema) if item else None
    return f"a list of {count}" + (f", each {each}" if each else "")


def _objects(node: Node, schema: Node) -> str:
    names = list(node.get("properties", ()))
    return "an object with " + ", ".join(names) if names else "an object"
