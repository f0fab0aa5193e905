"""Prompts: emphasis in parentheses, and tokens laid out in chunks of 77."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CHUNK_TOKENS = 77
"""Tokens that a CLIP text encoder takes: start, 75 of the prompt, end."""

_EMPHASIS = 1.1
_UNSPLIT_BELOW = 8
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
    """What stands in parentheses, or the whole text, while it is read."""

    end: int
    """Where its text ends, the number of ``(text:1.3)`` left out."""
    after: int
    """Where reading goes on behind it."""
    weight: float
    first_run: int
    """Index that its first run has or will have."""


def _weigh(text: str) -> list[Weighted]:
    """The runs of a text in time linear in its length, however its parentheses are nested."""
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
    """Where the text in parentheses ends, and its weight: the number at its end, or ``weight``."""
    colon = text.rfind(":", opening + 1, closing)
    if colon > opening + 1 and text.rfind(")", colon, closing) < 0:
        number = text[colon + 1 : closing]
        if _NUMBER.fullmatch(number):
            return colon, float(number)
    return closing, weight


def _closings(text: str) -> dict[int, int]:
    """Index of each parenthesis that has a partner → its partner's."""
    opened: list[int] = []
    pairs = {}
    for at, character in enumerate(text):
        if character == "(":
            opened.append(at)
        elif character == ")" and opened:
            pairs[opened.pop()] = at
    return pairs


@dataclass(frozen=True)
class Chunk:
    """77 token ids and the weight of each."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class ChunkLayout:
    """The special tokens of an encoder."""

    start: int
    end: int
    padding: int

    def chunk(self, tokens: Sequence[tuple[int, float]]) -> Chunk:
        """At most 75 weighted tokens between start and end, padded."""
        room = CHUNK_TOKENS - 2 - len(tokens)
        ids = [self.start, *(token for token, _ in tokens), self.end, *[self.padding] * room]
        weights = [1.0, *(weight for _, weight in tokens), 1.0, *[1.0] * room]
        return Chunk(tuple(ids), tuple(weights))


def lay_out(
    prompt: str, tokenize: Callable[[str], Sequence[int]], layout: ChunkLayout
) -> list[Chunk]:
    """A prompt as chunks. A run of fewer than 8 tokens is not split over two chunks.

    Args:
        tokenize: text to token ids, without start and end.
    """
    full = CHUNK_TOKENS - 2
    chunks: list[list[tuple[int, float]]] = [[]]
    for run in parse_weights(prompt):
        tokens = [(token, run.weight) for token in tokenize(run.text)]
        while tokens:
            room = full - len(chunks[-1])
            if len(tokens) <= room:
                chunks[-1].extend(tokens)
                break
            if len(tokens) >= _UNSPLIT_BELOW:
                chunks[-1].extend(tokens[:room])
                tokens = tokens[room:]
            chunks.append([])
    return [layout.chunk(tokens) for tokens in chunks]
