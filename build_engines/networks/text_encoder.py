"""CLIP's text encoders as Stable Diffusion uses them."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from build_engines.checkpoint import Checkpoint
from build_engines.networks.base import Attention, NetworkExport, Tensor
from build_engines.weights import load_weights
from pipelines.descriptor import TextRole

CHUNK_TOKENS = 77
"""Tokens of one row: start, 75 of text, end."""
END_TOKEN = 49407
"""Id of the token that ends a text, in the vocabulary that all these encoders share."""


class _LastHiddenState(nn.Module):
    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        # [B, 77] → [B, 77, D]
        return cast(torch.Tensor, self.encoder(input_ids=input_ids).last_hidden_state)


class _SecondLastHiddenState(nn.Module):
    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        # [B, 77] → [B, 77, D]
        states = self.encoder(input_ids=input_ids, output_hidden_states=True).hidden_states
        return cast(torch.Tensor, states[-2])


class _SecondLastAndPooled(nn.Module):
    def __init__(self, model: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.model = model

    @property
    def encoder(self) -> CLIPTextModel:
        return cast(CLIPTextModel, self.model.text_model)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # [B, 77] → [B, 77, D], [B, P]
        out = self.model(input_ids=input_ids, output_hidden_states=True)
        return out.hidden_states[-2], out.text_embeds


class ClipTextEncoder(NetworkExport):
    """``input_ids`` INT32 [B, 77] → ``hidden_state`` FP32 [B, 77, D]: the last one, after the
    final norm."""

    role: TextRole = "text_encoder"
    part = "text_encoder"
    tokenizer = "tokenizer"
    """Folder of the checkpoint with vocab.json and merges.txt."""
    pooled = False
    """Whether it has the output ``pooled``."""
    max_batch = 16

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (Tensor("input_ids", "INT32", (CHUNK_TOKENS,)),)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return (Tensor("hidden_state", "FP32", (CHUNK_TOKENS, self.width)),)

    @property
    def width(self) -> int:
        """Features D of a hidden state."""
        return int(self.config["hidden_size"])

    def load(self, checkpoint: Checkpoint) -> nn.Module:
        return _LastHiddenState(self._load_encoder(checkpoint))

    def _load_encoder(self, checkpoint: Checkpoint) -> CLIPTextModel:
        with torch.device("meta"):
            encoder = CLIPTextModel(CLIPTextConfig.from_dict(dict(self.config)))
        load_weights(encoder, checkpoint, self.part, _current_name)
        _make_positions(encoder)
        return encoder

    def prepare(self, module: nn.Module, attention: Attention) -> None:
        attention.use_in_clip(cast(_LastHiddenState, module).encoder)

    def fill(
        self, tensor: Tensor, shape: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """Token ids over the whole vocabulary, and an end somewhere in every row."""
        limit = self.config["vocab_size"]
        ids = torch.randint(0, limit, shape, generator=generator, dtype=torch.int32)
        ends = torch.randint(1, CHUNK_TOKENS, (shape[0], 1), generator=generator)
        return ids.scatter(1, ends, END_TOKEN)


class SdxlTextEncoder(ClipTextEncoder):
    """``input_ids`` INT32 [B, 77] → ``hidden_state`` FP32 [B, 77, D]: the second-last one,
    without the final norm."""

    def load(self, checkpoint: Checkpoint) -> nn.Module:
        return _SecondLastHiddenState(self._load_encoder(checkpoint))


class SdxlTextEncoder2(ClipTextEncoder):
    """``input_ids`` INT32 [B, 77] → ``hidden_state`` FP32 [B, 77, D], the second-last one
    without the final norm, and ``pooled`` FP32 [B, P], the projection of the last one after the
    final norm at the first end of text."""

    role: TextRole = "text_encoder_2"
    part = "text_encoder_2"
    tokenizer = "tokenizer_2"
    pooled = True

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return (*super().outputs, Tensor("pooled", "FP32", (self.pooled_width,)))

    @property
    def pooled_width(self) -> int:
        """Features P of a pooled text."""
        return int(self.config["projection_dim"])

    def load(self, checkpoint: Checkpoint) -> nn.Module:
        # Older configurations name another end, by which the greatest id is taken for it. That
        # goes wrong with the ids beyond the vocabulary that textual inversions add.
        config = CLIPTextConfig.from_dict({**self.config, "eos_token_id": END_TOKEN})
        with torch.device("meta"):
            model = CLIPTextModelWithProjection(config)
        load_weights(model, checkpoint, self.part, _without_positions)
        _make_positions(model.text_model)
        return _SecondLastAndPooled(model)


def _make_positions(encoder: CLIPTextModel) -> None:
    """Makes the buffer that is not stored with the weights, so that is still on the meta device."""
    positions = torch.arange(encoder.config.max_position_embeddings).expand(1, -1)
    encoder.embeddings.register_buffer("position_ids", positions, persistent=False)


def _current_name(name: str) -> str | None:
    """Older transformers nested the encoder in ``text_model`` and stored the positions."""
    return _without_positions(name.removeprefix("text_model."))


def _without_positions(name: str) -> str | None:
    return None if name.endswith("embeddings.position_ids") else name
