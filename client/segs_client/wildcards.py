"""Wildcards in prompts: ``{a|b}`` is one of its parts, ``__name__`` a line of a list; by a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from segs_client.refusals import ContractError, invalid

MAX_CHARS = 100_000
"""Most characters of a prompt, with or without its wildcards resolved."""
MAX_LEVELS = 32
"""Most levels of nested wildcards."""
_CHOICE = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"__([A-Za-z0-9_./-]+?)__")
_WEIGHT = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)::")


def resolve(
    prompt: str,
    seed: int,
    wildcards: Mapping[str, Sequence[str]] | None = None,
    max_chars: int = MAX_CHARS,
) -> str:
    """A prompt with every wildcard replaced; equal seeds give equal results.

    ``{a|b|c}`` becomes one of its parts, ``{3::a|b}`` becomes a three times as often as b, and they
    nest. ``__name__`` becomes a line of ``wildcards["name"]``, which may contain wildcards. Braces
    without a bar between them are not changed.

    Raises:
        ContractError: an unknown name, or endless wildcards.

    Example:
        >>> resolve("a {red|red} __thing__", 7, {"thing": ["hat"]})
        'a red hat'
    """
    if "{" not in prompt and "__" not in prompt:
        return prompt
    chooser = random.Random(seed)
    for _ in range(MAX_LEVELS):
        resolved = _NAME.sub(_Lines(wildcards or {}, chooser, max_chars), prompt)
        resolved = _CHOICE.sub(lambda match: _part(match, chooser), resolved)
        if resolved == prompt:
            return prompt
        prompt = resolved
    raise _endless(max_chars)


def load(folder: Path | str) -> dict[str, tuple[str, ...]]:
    """Reads a folder of ``*.txt`` files, one wildcard each, one line per choice.

    ``animals/cats.txt`` becomes ``animals/cats``. Blank lines and lines that start with # are
    skipped.
    """
    root = Path(folder)
    found = {}
    for path in sorted(root.rglob("*.txt")):
        lines = (line.strip() for line in path.read_text("utf-8").splitlines())
        kept = tuple(line for line in lines if line and not line.startswith("#"))
        if kept:
            found[path.relative_to(root).with_suffix("").as_posix()] = kept
    return found


class _Lines:
    """Chooses a line for each name of one level, up to the limit of characters."""

    def __init__(
        self, known: Mapping[str, Sequence[str]], chooser: random.Random, max_chars: int
    ) -> None:
        self._known = known
        self._chooser = chooser
        self._max_chars = self._room = max_chars

    def __call__(self, match: re.Match[str]) -> str:
        name = match[1]
        if name not in self._known:
            allowed = ", ".join(f"__{other}__" for other in sorted(self._known))
            shown = allowed or "none are given"
            raise invalid("wildcards", "unknown wildcard", value=f"__{name}__", allowed=shown)
        line = self._chooser.choice(self._known[name])
        self._room -= len(line)
        if self._room < 0:
            raise _endless(self._max_chars)
        return line


def _endless(max_chars: int) -> ContractError:
    allowed = f"{MAX_LEVELS} levels and {max_chars} characters"
    return invalid("prompt", "its wildcards go on for ever", allowed=allowed)


def _part(match: re.Match[str], chooser: random.Random) -> str:
    parts = match[1].split("|")
    if len(parts) == 1:
        return match[0]
    weights = [float(weight[1]) if (weight := _WEIGHT.match(part)) else 1.0 for part in parts]
    if not any(weights):
        weights = [1.0] * len(parts)
    chosen: str = chooser.choices(parts, weights)[0]
    weight = _WEIGHT.match(chosen)
    return chosen[weight.end() :] if weight else chosen
