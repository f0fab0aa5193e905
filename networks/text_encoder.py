"""CLIP's text encoders as Stable Diffusion uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from networks.base import Adapter, Attention, NetworkExport, TensorSpec
from pipelines.descriptor import TextRole

CHUNK_TOKENS = 77
"""Tokens of one row: start, 75 of text, end."""
END_TOKEN = 49407
"""Id of the token that ends a text, in the vocabulary that all these encoders share."""


class _TextAdapter(Adapter):
    def __init__(self, model: nn.Module, skipped: int) -> None:
        super().__init__(model)
        self.skipped = skipped


class _LastHiddenState(_TextAdapter):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        # [B, 77] → [B, 77, D]
        if not self.skipped:
            return cast(torch.Tensor, self.model(input_ids=input_ids).last_hidden_state)
        states = self.model(input_ids=input_ids, output_hidden_states=True).hidden_states
        return cast(torch.Tensor, self.model.final_layer_norm(states[-1 - self.skipped]))


class _SecondLastHiddenState(_TextAdapter):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        # [B, 77] → [B, 77, D]
        states = self.model(input_ids=input_ids, output_hidden_states=True).hidden_states
        return cast(torch.Tensor, states[-2 - self.skipped])


class _SecondLastAndPooled(_TextAdapter):
    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # [B, 77] → [B, 77, D], [B, P]
        out = self.model(input_ids=input_ids, output_hidden_states=True)
        return out.hidden_states[-2 - self.skipped], out.text_embeds


class ClipTextEncoder(NetworkExport):
    """``input_ids`` INT32 [B, 77] → ``hidden_state`` FP32 [B, 77, D]: the last one, or that of
    an earlier layer, after the final norm."""

    role: TextRole = "text_encoder"
    part = "text_encoder"
    tokenizer = "tokenizer"
    """Folder of the checkpoint with vocab.json and merges.txt."""
    pooled = False
    """Whether it has the output ``pooled``."""
    max_batch = 16
    exact_in_bf16 = True
    adapter: ClassVar[type[_TextAdapter]] = _LastHiddenState
    last_used: ClassVar[int] = 1
    """The layer that gives the hidden state, counted from the last one, if none is skipped."""

    def __init__(self, config: Mapping[str, Any], skipped: int = 0) -> None:
        """``skipped``: further layers at the end whose output is not used (clip skip)."""
        super().__init__(config)
        self.skipped = skipped

    @property
    def arguments(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    @property
    def most_skipped(self) -> int:
        """How many can be skipped: one layer is left."""
        return int(self.config["num_hidden_layers"]) - self.last_used

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("input_ids", "INT32", (CHUNK_TOKENS,)),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("hidden_state", "FP32", (CHUNK_TOKENS, self.width)),)

    @property
    def width(self) -> int:
        """Features D of a hidden state."""
        return int(self.config["hidden_size"])

    def skeleton(self) -> Adapter:
        with torch.device("meta"):
            model = CLIPTextModel(CLIPTextConfig.from_dict(dict(self.config)))
            return self.adapter(model, self.skipped)

    def current_name(self, name: str) -> str | None:
        """Handles older files with the encoder inside ``text_model``, and leaves out what is not
        used: stored positions, and the projection where a file has CLIP's."""
        if name == "text_projection.weight":
            return None
        return _used(name.removeprefix("text_model."))

    def complete(self, module: Adapter) -> None:
        """Creates the buffer of positions, which is not stored."""
        encoder = self.encoder(module)
        device = encoder.embeddings.position_embedding.weight.device
        positions = torch.arange(encoder.config.max_position_embeddings, device=device)
        encoder.embeddings.register_buffer("position_ids", positions[None], persistent=False)

    def encoder(self, module: Adapter) -> Any:
        """The encoder without a projection."""
        return module.model

    def prepare(self, module: Adapter, attention: Attention) -> None:
        attention.use_in_clip(self.encoder(module))

    def fill(
        self, tensor: TensorSpec, shape: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """Token ids over the whole vocabulary, with an end token in every row."""
        limit = self.config["vocab_size"]
        ids = torch.randint(0, limit, shape, generator=generator, dtype=torch.int32)
        ends = torch.randint(1, CHUNK_TOKENS, (shape[0], 1), generator=generator)
        return ids.scatter(1, ends, END_TOKEN)


class SdxlTextEncoder(ClipTextEncoder):
    """``input_ids`` INT32 [B, 77] → ``hidden_state`` FP32 [B, 77, D]: the second-last one, or
    an earlier one, without the final norm."""

    adapter = _SecondLastHiddenState
    last_used = 2


class SdxlTextEncoder2(ClipTextEncoder):
    """``input_ids`` INT32 [B, 77] → ``hidden_state`` FP32 [B, 77, D], the second-last one or an
    earlier one without the final norm, and ``pooled`` FP32 [B, P], the projection of the last one
    after the final norm at the first end of text."""

    adapter = _SecondLastAndPooled
    last_used = 2
    role: TextRole = "text_encoder_2"
    part = "text_encoder_2"
    tokenizer = "tokenizer_2"
    pooled = True

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (*super().outputs, TensorSpec("pooled", "FP32", (self.pooled_width,)))

    @property
    def pooled_width(self) -> int:
        """Features P of a pooled text."""
        return int(self.config["projection_dim"])

    def skeleton(self) -> Adapter:
        # With the end token of older configurations, the greatest id counts as the end. That is
        # wrong with textual inversions, whose ids are beyond the vocabulary.
        config = CLIPTextConfig.from_dict({**self.config, "eos_token_id": END_TOKEN})
        with torch.device("meta"):
            return self.adapter(CLIPTextModelWithProjection(config), self.skipped)

    def current_name(self, name: str) -> str | None:
        return _used(name)

    def encoder(self, module: Adapter) -> Any:
        return module.model.text_model


def _used(name: str) -> str | None:
    return None if name.endswith(("embeddings.position_ids", "logit_scale")) else name
