"""CLIP's vocabulary in the forms in which checkpoints store it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from build_engines.errors import CheckpointError

log = logging.getLogger(__name__)

START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens and merges of a byte-pair tokenizer, and the token that fills a chunk."""

    tokens: Mapping[str, int]
    """Token → id."""
    merges: tuple[tuple[str, str], ...]
    """The pairs that are merged, in order."""
    padding: str
    source: str
    """The file of the merges, for messages."""

    def __post_init__(self) -> None:
        """
        Raises:
            CheckpointError: start, end or padding is no token.
        """
        for token in (START, END):
            if token not in self.tokens:
                raise CheckpointError(f"{self.source}: not CLIP's vocabulary: no {token}")
        if self.padding not in self.tokens:
            raise CheckpointError(
                f"{self.source}: pad_token {self.padding!r} of tokenizer_config.json is unknown"
            )


@lru_cache(maxsize=2)  # a build asks several times for its one or two tokenizers' 50,000 lines
def parse_merges(text: str, source: str) -> tuple[tuple[str, str], ...]:
    """The pairs of a ``merges.txt``: two tokens a line.

    Raises:
        CheckpointError: a line is no pair.
    """
    lines = (line for line in text.splitlines() if line and not line.startswith("#version"))
    return tuple(_pair(line, source) for line in lines)


def parse_tokenizer(content: Mapping[str, Any], padding: str, source: str) -> Vocabulary:
    """The vocabulary of a ``tokenizer.json``, the one file of transformers 5.

    Only tokens and merges are taken, all else is CLIP's own: the file also has padding tokens as
    words of a prompt ("!" of SDXL's second tokenizer), which CLIP's vocabulary has not.

    Raises:
        CheckpointError: it is no byte-pair vocabulary of CLIP's kind.
    """
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise CheckpointError(f"{source}: model of type BPE is expected")
    if model.get("end_of_word_suffix") != _WORD_END:
        raise CheckpointError(
            f"{source}: not CLIP's vocabulary: end_of_word_suffix "
            f"{model.get('end_of_word_suffix')!r}, {_WORD_END!r} is expected"
        )
    tokens, merges = model.get("vocab"), model.get("merges")
    if not isinstance(tokens, dict) or not isinstance(merges, list):
        raise CheckpointError(f"{source}: model with vocab and merges is expected")
    added = _added_tokens(content.get("added_tokens"), source)
    if unused := [token for token in added if token not in tokens]:
        log.warning(
            "%s: added tokens are not used: %s; textual inversions are given with --embedding",
            source,
            ", ".join(unused[:5]),
        )
    return Vocabulary(tokens, tuple(_pair(each, source) for each in merges), padding, source)


def _added_tokens(value: object, source: str) -> list[str]:
    match value:
        case None:
            return []
        case list() if all(isinstance(each, dict) for each in value):
            return [str(each.get("content")) for each in value]
    raise CheckpointError(f"{source}: added_tokens {value!r:.80}; a list of objects is expected")


def padding_token(config: Mapping[str, Any]) -> str:
    """The padding token of a ``tokenizer_config.json``; an object in older ones."""
    token = config.get("pad_token") or END
    return str(token["content"] if isinstance(token, dict) else token)


def _pair(merge: object, source: str) -> tuple[str, str]:
    pair = merge.split(" ") if isinstance(merge, str) else merge
    match pair:
        case [str(left), str(right)] if left and right:
            return left, right
    raise CheckpointError(f"{source}: {merge!r}: two tokens are expected")
