"""Prints what the real TensorRT bindings offer, as JSON: run in a process of its own.

The bindings' docstrings hold the signatures; they need libraries of TensorRT to be imported, for
which empty ones will do.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import Any

_OVERLOAD = re.compile(r"^\d+\. (.*)$", re.MULTILINE)
_OPEN, _CLOSE = "([{<", ")]}>"


def split(text: str) -> list[str]:
    """Splits at the commas that no bracket encloses."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in _OPEN) - (letter in _CLOSE and text[i - 1 : i + 1] != "->")
        if letter == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def signature(line: str) -> dict[str, Any]:
    """``name(self: T, a: X, b: Y = Z) -> R`` as its parts, without self."""
    inside, _, returns = line[line.index("(") + 1 :].rpartition(") -> ")
    arguments = []
    for part in split(inside):
        name, _, rest = part.partition(": ")
        kind, equals, _ = rest.partition(" = ")
        arguments.append({"name": name, "type": kind.strip(), "default": bool(equals)})
    return {"arguments": arguments[1:], "returns": returns.strip()}


def signatures(function: Any) -> list[dict[str, Any]]:
    """Every overload of a method."""
    text = function.__doc__ or ""
    lines = _OVERLOAD.findall(text) if "Overloaded function." in text else text.split("\n")[:1]
    return [signature(line) for line in lines if ") -> " in line]


def describe(kind: Any) -> dict[str, Any]:
    """A class: its constructor, methods, properties, nested classes; an enum its members."""
    if hasattr(kind, "__members__"):
        return {"members": {name: int(value) for name, value in kind.__members__.items()}}
    methods, properties, nested = {}, {}, {}
    for name, value in vars(kind).items():
        if isinstance(value, property):
            properties[name] = {
                "type": (value.fget.__doc__ or "").strip().rpartition(") -> ")[2] or "object",
                "settable": value.fset is not None,
            }
        elif isinstance(value, type):
            nested[name] = describe(value)
        elif (name == "__init__" or name[0] != "_") and (found := signatures(value)):
            methods[name] = found
    bases = [base.__name__ for base in kind.__bases__ if base.__module__ == kind.__module__]
    return {"bases": bases, "methods": methods, "properties": properties, "nested": nested}


def main() -> None:
    trt: Any = importlib.import_module("tensorrt_bindings")
    kinds = {name: value for name, value in vars(trt).items() if isinstance(value, type)}
    classes = {name: describe(kind) for name, kind in sorted(kinds.items())}
    sys.stdout.write(json.dumps({"version": trt.__version__, "classes": classes}))


if __name__ == "__main__":
    main()
