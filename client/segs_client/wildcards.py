"""Wildcards in prompts: ``{a|b}`` picks one, ``__name__`` a line of a list; chosen by a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from segs_client.refusals import invalid

_MAX_DEPTH = 32
_MAX_CHARS = 100_000
_CHOICE = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"__([A-Za-z0-9_./-]+?)__")
_WEIGHT = re.compile(r"\s*(\d+(?:\.\d+)?)::")


def resolve(prompt: str, seed: int, wildcards: Mapping[str, Sequence[str]] | None = None) -> str:
    """A prompt with every wildcard replaced; the same seed chooses the same.

    ``{a|b|c}`` becomes one of its parts, ``{3::a|b}`` chooses a three times as often as b, and
    they nest. ``__name__`` becomes a line of ``wildcards["name"]``, which may hold wildcards
    itself. Braces without a bar between them are left alone.

    Raises:
        ContractError: an unknown name, or wildcards that never end.

    Example:
        >>> resolve("a {red|red} __thing__", 7, {"thing": ["hat"]})
        'a red hat'
    """
    chooser = random.Random(seed)
    known = wildcards or {}
    for _ in range(_MAX_DEPTH):
        resolved = _NAME.sub(lambda match: _line(match, known, chooser), prompt)
        resolved = _CHOICE.sub(lambda match: _part(match, chooser), resolved)
        if resolved == prompt:
            return prompt
        if len(resolved) > _MAX_CHARS:
            break
        prompt = resolved
    raise invalid(
        "prompt",
        "its wildcards go on for ever",
        allowed=f"{_MAX_DEPTH} levels and {_MAX_CHARS} characters",
    )


def load(folder: Path | str) -> dict[str, tuple[str, ...]]:
    """Reads a folder of ``*.txt`` files, one wildcard each, one line per choice.

    ``animals/cats.txt`` becomes ``animals/cats``. Blank lines and those that begin with # are left
    out.
    """
    root = Path(folder)
    found = {}
    for path in sorted(root.rglob("*.txt")):
        lines = (line.strip() for line in path.read_text("utf-8").splitlines())
        kept = tuple(line for line in lines if line and not line.startswith("#"))
        if kept:
            found[path.relative_to(root).with_suffix("").as_posix()] = kept
    return found


def _line(match: re.Match[str], known: Mapping[str, Sequence[str]], chooser: random.Random) -> str:
    name = match[1]
    if name not in known:
        allowed = ", ".join(f"__{other}__" for other in sorted(known)) or "none are given"
        raise invalid("wildcards", "unknown wildcard", value=f"__{name}__", allowed=allowed)
    return chooser.choice(known[name])


def _part(match: re.Match[str], chooser: random.Random) -> str:
    parts = match[1].split("|")
    if len(parts) == 1:
        return match[0]
    weights = [float(weight[1]) if (weight := _WEIGHT.match(part)) else 1.0 for part in parts]
    if not any(weights):
        weights = [1.0] * len(parts)
    return _WEIGHT.sub("", chooser.choices(parts, weights)[0], count=1)
