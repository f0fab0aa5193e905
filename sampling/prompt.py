"""A prompt's tokens laid out in chunks of 77."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from request_plan.prompt_weights import parse_weights

CHUNK_TOKENS = 77
"""Tokens of a CLIP text encoder's input: start, 75 of the prompt, end."""

_UNSPLIT_BELOW = 8


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
