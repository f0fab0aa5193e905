"""The weights of a prompt's parts, given by parentheses."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass

_EMPHASIS = 1.1
_ESCAPED = {"\\(": "\x02", "\\)": "\x01"}


@dataclass(frozen=True)
class Weighted:
    """A run of text under one weight, which may be NaN or infinite."""

    text: str
    weight: float


def parse_weights(prompt: str) -> list[Weighted]:
    r"""Splits a prompt by its parentheses.

    ``(text)`` multiplies the weight by 1.1, ``(text:1.3)`` sets it; ``\(`` and ``\)`` are literal.

    Parentheses without a partner count as in the reference. A part in parentheses begins only
    where as many were closed as opened before, so each ``)`` too many makes a later group literal;
    a ``(`` that is not closed makes all that follows literal, unless its last character is a
    ``)``, which then closes it.

    >>> parse_weights("a (red:1.3) ((hat))")
    [Weighted(text='a ', weight=1.0), Weighted(text='red', weight=1.3), \
Weighted(text=' ', weight=1.0), Weighted(text='hat', weight=1.2100000000000002)]
    >>> parse_weights("a :) (b:1.5)")
    [Weighted(text='a :) (b:1.5)', weight=1.0)]
    """
    for escape, mark in _ESCAPED.items():
        prompt = prompt.replace(escape, mark)
    runs = _weigh(_Text(prompt))
    return [Weighted(_unescaped(run.text), run.weight) for run in runs]


def _unescaped(text: str) -> str:
    for escape, mark in _ESCAPED.items():
        text = text.replace(mark, escape[1:])
    return text


class _Text:
    """A text and the places of its parentheses, so that what is nested is not gone through again
    at every level."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.depths = [0]
        """Before each character: how many more were opened than closed; may be below 0."""
        self._openings: dict[int, list[int]] = defaultdict(list)
        """Depth → where a parenthesis is opened at it."""
        self._closings: dict[int, int] = {}
        """Where a parenthesis is opened → where it is closed."""
        self._last = [-1]
        """Before each character: the last parenthesis."""
        opened: list[int] = []
        for at, character in enumerate(text):
            depth, last = self.depths[-1], self._last[-1]
            if character == "(":
                self._openings[depth].append(at)
                opened.append(at)
                depth, last = depth + 1, at
            elif character == ")":
                if opened:
                    self._closings[opened.pop()] = at
                depth, last = depth - 1, at
            self.depths.append(depth)
            self._last.append(last)

    def run_end(self, at: int, depth: int, end: int) -> int:
        """End of the run that begins at ``at``, where the depth is ``depth``, in a part that ends
        at ``end``: it is closed, or the next one is opened at that depth."""
        if self.text[at] == "(":
            return min(self._closings.get(at, end) + 1, end)
        openings = self._openings[depth]
        following = bisect_right(openings, at)
        return min(openings[following], end) if following < len(openings) else end

    def content(self, start: int, end: int, weight: float) -> tuple[int, float]:
        """End of the text in parentheses, ``start`` to ``end``, and its weight: the number after
        its last colon, or ``weight``."""
        colon = self.text.rfind(":", max(start, self._last[end]) + 1, end)
        if colon < 0:
            return end, weight
        try:
            return colon, float(self.text[colon + 1 : end])
        except ValueError:
            return end, weight


@dataclass
class _Part:
    """What is in parentheses, or the whole text, while it is read."""

    at: int
    end: int
    depth: int
    weight: float


def _weigh(text: _Text) -> list[Weighted]:
    """The runs of a text; takes time linear in its length for any nesting (but for a logarithm)."""
    parts = [_Part(0, len(text.text), 0, 1.0)]
    runs: list[Weighted] = []
    while parts:
        part = parts[-1]
        start = part.at
        if start >= part.end:
            parts.pop()
            continue
        part.at = text.run_end(start, part.depth, part.end)
        if text.text[start] == "(" and text.text[part.at - 1] == ")":
            end, weight = text.content(start + 1, part.at - 1, part.weight * _EMPHASIS)
            parts.append(_Part(start + 1, end, text.depths[start + 1], weight))
        else:
            runs.append(Weighted(text.text[start : part.at], part.weight))
    return runs
