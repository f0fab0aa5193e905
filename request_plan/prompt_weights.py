"""The weights of a prompt's parts, given by parentheses."""

from __future__ import annotations

import re
from dataclasses import dataclass

_EMPHASIS = 1.1
_ESCAPED = {"\\(": "\x02", "\\)": "\x01"}
_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*")


@dataclass(frozen=True)
class Weighted:
    """A run of text under one weight."""

    text: str
    weight: float


def parse_weights(prompt: str) -> list[Weighted]:
    r"""Splits a prompt by its parentheses.

    ``(text)`` multiplies the weight by 1.1, ``(text:1.3)`` sets it; ``\(`` and ``\)`` are literal,
    and so is a parenthesis without its partner.

    >>> parse_weights("a (red:1.3) ((hat))")
    [Weighted(text='a ', weight=1.0), Weighted(text='red', weight=1.3), \
Weighted(text=' ', weight=1.0), Weighted(text='hat', weight=1.2100000000000002)]
    """
    for escape, mark in _ESCAPED.items():
        prompt = prompt.replace(escape, mark)
    runs = _weigh(prompt)
    return [Weighted(_unescaped(run.text), run.weight) for run in runs]


def _unescaped(text: str) -> str:
    for escape, mark in _ESCAPED.items():
        text = text.replace(mark, escape[1:])
    return text


@dataclass
class _Group:
    """A part in parentheses, or the whole text, while it is parsed."""

    end: int
    """End of its text, without the number of ``(text:1.3)``."""
    after: int
    """Position after the closing parenthesis."""
    weight: float
    first_run: int
    """Index of its first run."""


def _weigh(text: str) -> list[Weighted]:
    """The runs of a text; takes time linear in its length for any nesting."""
    closing = _closings(text)
    groups = [_Group(len(text), len(text), 1.0, 0)]
    runs: list[Weighted] = []
    at = plain_from = 0
    while groups:
        group = groups[-1]
        if at >= group.end:
            if plain_from < group.end or len(runs) == group.first_run:
                runs.append(Weighted(text[plain_from : group.end], group.weight))
            groups.pop()
            at = plain_from = group.after
        elif at in closing:
            if at > plain_from:
                runs.append(Weighted(text[plain_from:at], group.weight))
            end, weight = _content(text, at, closing[at], group.weight * _EMPHASIS)
            groups.append(_Group(end, closing[at] + 1, weight, len(runs)))
            at = plain_from = at + 1
        else:
            at += 1
    return runs


def _content(text: str, opening: int, closing: int, weight: float) -> tuple[int, float]:
    """End of the text in parentheses, and its weight: the number at its end, or ``weight``."""
    colon = text.rfind(":", opening + 1, closing)
    if colon > opening + 1 and text.rfind(")", colon, closing) < 0:
        number = text[colon + 1 : closing]
        if _NUMBER.fullmatch(number):
            return colon, float(number)
    return closing, weight


def _closings(text: str) -> dict[int, int]:
    """Index of each matched opening parenthesis → index of the closing one."""
    opened: list[int] = []
    pairs = {}
    for at, character in enumerate(text):
        if character == "(":
            opened.append(at)
        elif character == ")" and opened:
            pairs[opened.pop()] = at
    return pairs
