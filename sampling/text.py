"""Encoding of prompts: chunks through one or two text encoders, weighted and joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from pipelines.descriptor import EMBEDDING, TextEncoderSpec
from request_plan.limits import Limits
from sampling.conditioning import Encoded
from sampling.program import NetworkCall, Program, RowShape
from sampling.prompt import CHUNK_TOKENS, Chunk, ChunkLayout, lay_out
from segs_client.contract import invalid


@dataclass(frozen=True)
class TextEncoder:
    """A CLIP text encoder as a Triton model, with its tokenizer."""

    model: str
    spec: TextEncoderSpec
    tokenizer: Tokenizer
    width: int | None = None
    """Width of the hidden states; None: not known."""

    @classmethod
    def load(
        cls, model: str, spec: TextEncoderSpec, folder: Path, width: int | None
    ) -> TextEncoder:
        """``folder``: the descriptor's folder; the tokenizer's path is relative to it."""
        return cls(model, spec, Tokenizer.from_file(str(folder / spec.tokenizer)), width)

    @property
    def layout(self) -> ChunkLayout:
        """The encoder's special tokens."""
        return ChunkLayout(self.spec.start, self.spec.end, self.spec.padding)

    def chunks(self, prompt: str) -> list[Chunk]:
        """The prompt's tokens in chunks of 77."""
        return lay_out(prompt, self._ids, self.layout)

    def _ids(self, text: str) -> Sequence[int]:
        """Token ids; ``embedding:name`` is replaced by the tokens of the embedding."""
        ids: list[int] = []
        plain_from = 0
        for match in EMBEDDING.finditer(text):
            known = self.spec.embeddings.get(match[1])
            if known is not None:
                ids += [*self._plain_ids(text[plain_from : match.start()]), *known]
                plain_from = match.end()
        return [*ids, *self._plain_ids(text[plain_from:])]

    def _plain_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode(self, prompt: str) -> Program[Encoded]:
        """Encodes one prompt of any length: context ``[1, 77·chunks, D]``, and the first chunk's
        pooled vector where the encoder has one.

        A token's weight w moves its output away from that of an empty prompt at the same
        position: ``empty + w·(out − empty)``.
        """
        chunks = self.chunks(prompt)
        rows = [chunk.ids for chunk in chunks]
        weighted = any(weight != 1 for chunk in chunks for weight in chunk.weights)
        if weighted:
            rows.append(self.layout.chunk(()).ids)
        input_ids = torch.tensor(rows, dtype=torch.int32)
        wanted: dict[str, RowShape] = {"hidden_state": (input_ids.shape[1], self.width)}
        if self.spec.pooled:
            wanted["pooled"] = (None,)
        outputs = yield NetworkCall(self.model, {"input_ids": input_ids}, wanted)
        hidden = outputs["hidden_state"]  # [chunks (+ 1), 77, D]
        if weighted:
            hidden, empty = hidden[:-1], hidden[-1:]
            weights = hidden.new_tensor([chunk.weights for chunk in chunks])[:, :, None]
            hidden = torch.where(weights == 1, hidden, empty + weights * (hidden - empty))
        context = hidden.reshape(1, -1, hidden.shape[-1])
        # A copy: a view would keep the outputs of the whole batch in memory.
        return Encoded(context, outputs["pooled"][:1].clone() if self.spec.pooled else None)


def check_prompt(encoders: Sequence[TextEncoder], prompt: str, limits: Limits) -> None:
    """Checks a prompt's number of chunks and its weights.

    Raises:
        ContractError: one of them exceeds its limit.
    """
    for encoder in encoders:
        chunks = encoder.chunks(prompt)
        if len(chunks) > limits.max_prompt_chunks:
            allowed = f"up to {limits.max_prompt_chunks} chunks of {CHUNK_TOKENS - 2} tokens"
            raise invalid(
                "prompt", "too many tokens", value=f"{len(chunks)} chunks", allowed=allowed
            )
        most = limits.max_prompt_weight
        for weight in (weight for chunk in chunks for weight in chunk.weights):
            if not abs(weight) <= most:
                wrong = "not a number" if math.isnan(weight) else "too large"
                allowed = f"-{most:g} … {most:g}"
                raise invalid("prompt", f"a weight is {wrong}", value=weight, allowed=allowed)


def check_common_length(tokens: int, limits: Limits) -> None:
    """Checks the length of prompts after they are repeated to be equally long.

    Raises:
        ContractError: it exceeds ``max_context_chunks``.
    """
    chunks, most = tokens // CHUNK_TOKENS, limits.max_context_chunks
    if chunks > most:
        allowed = f"prompts whose chunks have a common multiple up to {most}"
        message = "their lengths do not fit together"
        raise invalid("prompts", message, value=f"{chunks} chunks", allowed=allowed)


def encode_prompt(encoders: Sequence[TextEncoder], prompt: str) -> Program[Encoded]:
    """Encodes a prompt with every encoder; hidden states are joined along the features."""
    parts = []
    for encoder in encoders:
        parts.append((yield from encoder.encode(prompt)))
    pooled = next((part.pooled for part in parts if part.pooled is not None), None)
    return Encoded(torch.cat([part.context for part in parts], dim=-1), pooled)
