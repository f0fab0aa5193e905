"""CLIP's vocabulary, which a single file does not carry.

``clip_merges.txt.gz`` has the merges as OpenAI published them (MIT, ``clip_merges.LICENSE``).
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

VOCABULARY_FILE = Path(__file__).with_name("clip_merges.txt.gz")
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


@cache
def clip_merges() -> tuple[str, ...]:
    """The pairs that CLIP's tokenizer merges, in the order in which they were learned, each as
    ``"left right"``."""
    return tuple(gzip.decompress(VOCABULARY_FILE.read_bytes()).decode("utf-8").split("\n"))


def clip_vocabulary(merges: tuple[str, ...]) -> dict[str, int]:
    """Token → id: bytes, bytes that end a word, what the merges make, start and end of text."""
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [merge.replace(" ", "") for merge in merges]
    return {token: index for index, token in enumerate([*tokens, *_SPECIAL])}


def _byte_letters() -> list[str]:
    """A printable letter for each byte, those that are printable themselves first."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]
