"""Prompts into conditioning: chunks through a text encoder, weighted, joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from pipelines.descriptor import TextEncoderSpec
from sampling.program import Call, Program
from sampling.prompt import Chunk, ChunkLayout, lay_out


@dataclass(frozen=True)
class TextEncoder:
    """A CLIP text encoder as a Triton model, with its tokenizer.

    Conditioning is float32 ``[1, 77·chunks, D]``.
    """

    model: str
    tokenizer: Tokenizer
    layout: ChunkLayout

    @classmethod
    def load(cls, model: str, spec: TextEncoderSpec, folder: Path) -> TextEncoder:
        """``folder``: where the descriptor lies; the tokenizer's path is relative to it."""
        tokenizer = Tokenizer.from_file(str(folder / spec.tokenizer))
        return cls(model, tokenizer, ChunkLayout(spec.start, spec.end, spec.padding))

    def chunks(self, prompt: str) -> list[Chunk]:
        """The prompt's tokens in chunks of 77."""
        return lay_out(prompt, self._ids, self.layout)

    def _ids(self, text: str) -> Sequence[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode(self, prompt: str) -> Program[torch.Tensor]:
        """Encodes one prompt of any length.

        A token's weight w moves its output away from that of an empty prompt at the same
        position: ``empty + w·(out − empty)``.
        """
        chunks = self.chunks(prompt)
        rows = [chunk.ids for chunk in chunks]
        weights = torch.tensor([chunk.weights for chunk in chunks])[:, :, None]
        weighted = bool((weights != 1).any())
        if weighted:
            rows.append(self.layout.chunk(()).ids)
        outputs = yield Call(self.model, {"input_ids": torch.tensor(rows, dtype=torch.int32)})
        hidden = outputs["hidden_state"]  # [chunks (+ 1), 77, D]
        if weighted:
            hidden, empty = hidden[:-1], hidden[-1:]
            hidden = torch.where(weights == 1, hidden, empty + weights * (hidden - empty))
        return hidden.reshape(1, -1, hidden.shape[-1])


def to_common_length(contexts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Conditionings ``[1, Lᵢ, D]`` as rows ``[n, lcm(Lᵢ), D]``: each is repeated, which attention
    does not notice."""
    length = math.lcm(*(context.shape[1] for context in contexts))
    return torch.cat([context.repeat(1, length // context.shape[1], 1) for context in contexts])
