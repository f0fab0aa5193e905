"""Captions as token ids: CLIP's vocabulary, of which the networks learn the words in use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import CLIPTokenizer

from examples.demo_checkpoint import person

TOKENS = 77
_EMBEDDED = 49408
_START, _END = 49406, 49407
_STRANGE_SHARE = 0.25
_MOST_STRANGE = 4
_CLIP: Any = CLIPTokenizer  # its signature leaves out the pairs that it takes


class Vocabulary:
    """The tokens that captions are made of, numbered from 1; all others of CLIP's are 0.

    Args:
        folder: with CLIP's vocab.json and merges.txt.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = _CLIP.from_pretrained(str(folder))
        used = {_START, _END}
        for words in _all_words():
            used.update(self.tokenizer(words)["input_ids"])
        self.ids = sorted(used)
        self._numbers = {token: number for number, token in enumerate(self.ids, start=1)}

    def __len__(self) -> int:
        return len(self.ids) + 1

    def encode(
        self, captions: Sequence[str], rng: np.random.Generator | None = None
    ) -> torch.Tensor:
        """``[B, 77]`` numbers; with ``rng``, some captions get words that are not known.

        A network that met them in training is not put off by a user's.
        """
        rows = torch.full((len(captions), TOKENS), self._numbers[_END])
        for row, caption in zip(rows, captions, strict=True):
            tokens = self.tokenizer(caption)["input_ids"][1:-1]
            numbers = [self._numbers.get(token, 0) for token in tokens]
            if rng is not None and numbers and rng.random() < _STRANGE_SHARE:
                place = int(rng.integers(len(numbers) + 1))
                numbers[place:place] = [0] * int(rng.integers(1, _MOST_STRANGE + 1))
            kept = [self._numbers[_START], *numbers[: TOKENS - 2]]
            row[: len(kept)] = torch.tensor(kept)
        return rows

    def shrink(self, text_encoder: Any) -> None:
        """Gives the encoder a table of these tokens alone, to be trained and averaged quickly."""
        width = text_encoder.config.hidden_size
        table = nn.Embedding(len(self), width)
        nn.init.normal_(table.weight, std=0.02)
        _embeddings(text_encoder).token_embedding = table
        # Its pooled output, which nothing here uses, looks for this token.
        text_encoder.config.eos_token_id = self._numbers[_END]

    def full_table(self, table: torch.Tensor) -> torch.Tensor:
        """The whole vocabulary's table ``[49408, W]``; unknown tokens share the row that
        training gave to them."""
        full = table[:1].repeat(_EMBEDDED, 1)
        full[self.ids] = table[1:]
        return full

    def small_table(self, full: torch.Tensor) -> torch.Tensor:
        """These tokens' rows of the whole vocabulary's table, which :meth:`full_table` made."""
        unknown = next(token for token in range(_EMBEDDED) if token not in self._numbers)
        return full[[unknown, *self.ids]]


def _embeddings(text_encoder: Any) -> Any:
    return getattr(text_encoder, "text_model", text_encoder).embeddings


def _all_words() -> list[str]:
    colours = {*person.HAIR_COLOURS, *person.EYE_COLOURS, *person.COLOURS}
    return [
        ", ".join([*colours, *person.SKINS, *person.HAIR_STYLES, person.BALD, *person.MOUTHS]),
        ", ".join(["face", "skin", "hair", "eyes", "glasses", "beard", "moustache", "shirt"]),
        ", ".join([*person.HATS[1:], *person.PLACES, "background"]),
    ]
