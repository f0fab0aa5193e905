"""The denoising UNet with text conditioning (SD1)."""

from __future__ import annotations

from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from build_engines.attention import FusedAttention
from build_engines.checkpoint import Checkpoint
from build_engines.networks.base import Axis, NetworkExport, Tensor
from build_engines.weights import load_weights

ALWAYS_PASS_SIZES = 40
"""As ``num_upsamplers``: diffusers passes the skip connections' sizes to the up-path where a
side is no multiple of 2**num_upsamplers, and the trace freezes that choice. No side is a
multiple of 2**40, so the graph always takes its sizes from the skip connections."""

_MODEL: Any = UNet2DConditionModel  # diffusers' classes are not typed


class _Denoise(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        # [B, C, h, w], [B, 1], [B, L, D] → [B, 4, h, w]
        return cast(
            torch.Tensor,
            self.unet(sample, timestep[:, 0], encoder_hidden_states, return_dict=False)[0],
        )


class Unet(NetworkExport):
    """``sample`` FP32 [B, C, h, w], ``timestep`` FP32 [B, 1], ``encoder_hidden_states`` FP32
    [B, L, D] → ``out_sample`` FP32 [B, 4, h, w]. Latents of any size, one timestep a row."""

    role = "unet"
    part = "unet"
    max_batch = 16
    axes = (
        Axis("height", 4, 64, 256),
        Axis("width", 4, 64, 256),
        Axis("sequence", 77, 77, 16 * 77),
    )
    checked_sizes = (
        {"height": 19, "width": 24, "sequence": 77},
        {"height": 16, "width": 13, "sequence": 154},
    )

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (
            Tensor("sample", "FP32", (self.config["in_channels"], "height", "width")),
            Tensor("timestep", "FP32", (1,)),
            Tensor("encoder_hidden_states", "FP32", ("sequence", self.context_dim)),
        )

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return (Tensor("out_sample", "FP32", (self.config["out_channels"], "height", "width")),)

    @property
    def context_dim(self) -> int:
        """Width D of the text conditioning."""
        return int(self.config["cross_attention_dim"])

    def load(self, checkpoint: Checkpoint) -> nn.Module:
        with torch.device("meta"):
            unet: nn.Module = _MODEL.from_config(dict(self.config))
        load_weights(unet, checkpoint, self.part, lambda name: name)
        return _Denoise(unet)

    def prepare(self, module: nn.Module) -> None:
        unet = cast(Any, module).unet
        unet.num_upsamplers = ALWAYS_PASS_SIZES
        unet.set_attn_processor(FusedAttention())

    def fill(
        self, tensor: Tensor, shape: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """Normal values, and another timestep in every row."""
        if tensor.name == "timestep":
            return torch.randint(0, 1000, shape, generator=generator).to(torch.float32)
        return super().fill(tensor, shape, generator)
