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
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


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
    runs = _weigh(prompt, 1.0)
    return [Weighted(_unescaped(run.text), run.weight) for run in runs]


def _unescaped(text: str) -> str:
    for escape, mark in _ESCAPED.items():
        text = text.replace(mark, escape[1:])
    return text


def _weigh(text: str, weight: float) -> list[Weighted]:
    runs: list[Weighted] = []
    plain_from = at = 0
    while at < len(text):
        end = _closing(text, at) if text[at] == "(" else -1
        if end < 0:
            at += 1
            continue
        if at > plain_from:
            runs.append(Weighted(text[plain_from:at], weight))
        inner, inner_weight = text[at + 1 : end], weight * _EMPHASIS
        head, colon, number = inner.rpartition(":")
        if colon and head and _NUMBER.fullmatch(number):
            inner, inner_weight = head, float(number)
        runs.extend(_weigh(inner, inner_weight))
        plain_from = at = end + 1
    if plain_from < len(text) or not runs:
        runs.append(Weighted(text[plain_from:], weight))
    return runs


def _closing(text: str, opening: int) -> int:
    """Index of the parenthesis that closes the one at ``opening``; −1 where none does."""
    depth = 0
    for at in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return -1


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
