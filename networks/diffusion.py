"""The common parts of a UNet and its ControlNets: latents of any size, and conditioning inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from networks.base import Axis, NetworkExport, Space, TensorSpec

SIDES = (4, 64, 256)
"""Least, usual and greatest side of a latent."""
DIFFUSION_AXES = (
    Axis("height", *SIDES),
    Axis("width", *SIDES),
    Axis("sequence", 77, 77, 16 * 77),
)
CHECKED_SIZES = (
    {"height": 19, "width": 24, "sequence": 77},
    {"height": 16, "width": 13, "sequence": 154},
)

ADDITION_INPUT = "projection_class_embeddings_input_dim"
ADDITION_SIZE = "addition_time_embed_dim"


class DiffusionExport(NetworkExport):
    """A network of the denoising loop."""

    max_batch = 16
    max_batch_area = 16 * 64 * 64
    """16 rows of pictures of 512²: 2.5 GB with SD1.5's UNet in float32."""
    spaces: ClassVar[Mapping[int, tuple[Space, ...]]] = {
        0: (Space(8, 64), Space(2, 128), Space(1, 256)),
        20: (Space(16, 96), Space(4, 128), Space(1, 256)),
        40: (Space(16, 128), Space(4, 256)),
    }
    exact_inputs = frozenset({"timestep", "time_ids"})
    time_ids: int = 0
    """Length of SDXL's size conditioning; 0: without it."""

    @property
    def usual_side(self) -> int:  # type: ignore[override]
        """Side of the latents that the checkpoint was trained with."""
        return 128 if self.time_ids else SIDES[1]

    def sizes_at(self, side: int) -> dict[str, int]:
        return {"height": side, "width": side}

    @property
    def context_dim(self) -> int:
        """Width D of the text conditioning."""
        return int(self.config["cross_attention_dim"])

    @property
    def pooled_dim(self) -> int:
        """Width P of the pooled text of the size conditioning."""
        total, size = (int(self.config[name]) for name in (ADDITION_INPUT, ADDITION_SIZE))
        return total - self.time_ids * size

    @property
    def conditioning(self) -> tuple[TensorSpec, ...]:
        """``timestep`` [B, 1], ``encoder_hidden_states`` [B, L, D] and, with size conditioning,
        ``text_embeds`` [B, P] and ``time_ids`` [B, N]."""
        conditioning = (
            TensorSpec("timestep", "FP32", (1,)),
            TensorSpec("encoder_hidden_states", "FP32", ("sequence", self.context_dim)),
        )
        if self.time_ids == 0:
            return conditioning
        return (
            *conditioning,
            TensorSpec("text_embeds", "FP32", (self.pooled_dim,)),
            TensorSpec("time_ids", "FP32", (self.time_ids,)),
        )

    def fill(
        self, tensor: TensorSpec, shape: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """A different timestep, picture size and strength in every row; pixels from 0 to 1."""
        if tensor.name in ("timestep", "time_ids"):
            return torch.randint(0, 1000, shape, generator=generator).to(torch.float32)
        if tensor.name in ("controlnet_cond", "conditioning_scale"):
            return torch.rand(shape, generator=generator)
        return super().fill(tensor, shape, generator)
