"""Command line flags for the contract's options, generated from its JSON Schema."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segs_client.boxes import FloatBox
from segs_client.contract import request_schema
from segs_client.ranges import allowed_values, node_at

# Set by other flags and arguments, or of no use on the command line.
_NOT_FLAGS = (
    "version", "image", "segs", "stream",
    "output.image", "output.quality", "output.seg_images", "output.control_images",
)  # fmt: skip
_ALIASES = {"sampler_name": "--sampler", "noise_mask_feather": "--feather"}
_SCALARS = ("integer", "number", "boolean", "string")  # all else: --option NAME=JSON
_TYPES = {"integer": int, "number": float}
_PREFIX = "option:"


def add_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds one flag per option; those not given stay out of the namespace.

    ``guide_size`` becomes ``--guide-size``, ``paste.feather`` becomes ``--paste-feather``. Any
    option is ``--option NAME=VALUE`` too, for :func:`given_options`.
    """
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any option by its name in the contract, e.g. paste.feather=3",
    )
    required = request_schema()["required"]
    for path, node in _options():
        name = ".".join(path)
        flags = ["--" + "-".join(path).replace("_", "-")]
        if name in _ALIASES:
            flags.append(_ALIASES[name])
        settings: dict[str, Any] = {
            "dest": _PREFIX + name,
            "default": argparse.SUPPRESS,
            "required": name in required,
            "help": _help(node).replace("%", "%%"),
        }
        if node["type"] == "boolean":
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings["type"] = _TYPES.get(node["type"], str)
            settings["metavar"] = _metavar(node)
        parser.add_argument(*flags, **settings)


def given_options(namespace: argparse.Namespace, extra: Sequence[str]) -> dict[str, Any]:
    """The options given as flags, then those given as ``name=value``, nested by their dots.

    A value is read as JSON, or else as text.

    Raises:
        ValueError: an entry of ``extra`` without ``=``.

    Example:
        >>> given_options(argparse.Namespace(), ["paste.feather=3", "scheduler=karras"])
        {'paste': {'feather': 3}, 'scheduler': 'karras'}
    """
    found: dict[str, Any] = {}
    for dest, value in vars(namespace).items():
        if dest.startswith(_PREFIX):
            _insert(found, dest.removeprefix(_PREFIX), value)
    for text in extra:
        name, separator, value = text.partition("=")
        if not name or not separator:
            raise ValueError(f"--option {text}: name=value expected")
        _insert(found, name, _json_or_text(value))
    return found


def box_flag(text: str) -> FloatBox:
    """Reads ``X1,Y1,X2,Y2``, whole numbers as ints and others as floats; a type for argparse."""
    try:
        x1, y1, x2, y2 = (_edge(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a box; four numbers X1,Y1,X2,Y2 in pixels expected"
        ) from None
    return x1, y1, x2, y2


def _edge(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    try:
        return int(text)
    except ValueError:
        return number


def _options() -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    schema = request_schema()
    for name in schema["properties"]:
        node = node_at(schema, [name])
        if name in _NOT_FLAGS or node is None:
            continue
        for inner in node.get("properties", ()):
            child = node_at(schema, [name, inner])
            if child is None or f"{name}.{inner}" in _NOT_FLAGS:
                continue
            if child.get("type") in _SCALARS:
                yield (name, inner), child
        if node.get("type") in _SCALARS:
            yield (name,), node


def _help(node: Mapping[str, Any]) -> str:
    facts = []
    if node.get("default") not in (None, ""):
        facts.append(f"default {_shown(node['default'])}")
    allowed = allowed_values(node, request_schema())
    if allowed and node["type"] != "boolean":
        facts.append(allowed)
    description = str(node.get("description", ""))
    return f"{description} ({'; '.join(facts)})" if facts else description


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _metavar(node: Mapping[str, Any]) -> str:
    return {"integer": "N", "number": "X"}.get(node["type"], "NAME" if "enum" in node else "TEXT")


def _insert(options: dict[str, Any], dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        options = options.setdefault(parent, {})
        if not isinstance(options, dict):
            raise ValueError(f"--option {dotted}: {parent} has a value already")
    options[last] = value


def _json_or_text(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return value
