"""CLIP's text encoder as SD1 uses it: the last hidden state after the final norm."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from build_engines.attention import use_fused_clip_attention
from build_engines.checkpoint import Checkpoint
from build_engines.networks.base import NetworkExport, Tensor
from build_engines.weights import load_weights
from pipelines.descriptor import TextRole

CHUNK_TOKENS = 77
"""Tokens of one row: start, 75 of text, end."""


class _LastHiddenState(nn.Module):
    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        # [B, 77] → [B, 77, D]
        return cast(torch.Tensor, self.encoder(input_ids=input_ids).last_hidden_state)


class ClipTextEncoder(NetworkExport):
    """``input_ids`` INT32 [B, 77] → ``hidden_state`` FP32 [B, 77, D]."""

    role: TextRole = "text_encoder"
    part = "text_encoder"
    tokenizer = "tokenizer"
    """Folder of the checkpoint with vocab.json and merges.txt."""
    pooled = False
    max_batch = 16

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (Tensor("input_ids", "INT32", (CHUNK_TOKENS,)),)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return (Tensor("hidden_state", "FP32", (CHUNK_TOKENS, self.config["hidden_size"])),)

    def load(self, checkpoint: Checkpoint) -> nn.Module:
        config = CLIPTextConfig.from_dict(dict(self.config))
        with torch.device("meta"):
            encoder = CLIPTextModel(config)
        load_weights(encoder, checkpoint, self.part, _current_name)
        # A buffer that is not stored with the weights, so it is still on the meta device.
        positions = torch.arange(config.max_position_embeddings).expand(1, -1)
        encoder.embeddings.register_buffer("position_ids", positions, persistent=False)
        return _LastHiddenState(encoder)

    def prepare(self, module: nn.Module) -> None:
        use_fused_clip_attention(cast(_LastHiddenState, module).encoder)

    def fill(
        self, tensor: Tensor, shape: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """Token ids over the whole vocabulary."""
        limit = self.config["vocab_size"]
        return torch.randint(0, limit, shape, generator=generator, dtype=torch.int32)


def _current_name(name: str) -> str | None:
    """Older transformers nested the encoder in ``text_model`` and stored the positions."""
    name = name.removeprefix("text_model.")
    return None if name == "embeddings.position_ids" else name
