"""The two halves of the variational autoencoder (KL, 8 pixels per latent cell)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from diffusers import AutoencoderKL
from torch import nn

from networks.base import Adapter, Attention, Axis, NetworkExport, Space, TensorSpec

DEFAULT_LATENT_SCALE = 0.18215
"""Scaling factor of a VAE whose configuration has none."""

_MODEL: Any = AutoencoderKL  # diffusers' classes are not typed
_ENCODER = "encoder", "quant_conv"
_DECODER = "decoder", "post_quant_conv"


class _EncodeMean(Adapter):
    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        # [B, 3, H, W] → [B, 4, H/8, W/8]
        return cast(torch.Tensor, self.model.encode(sample).latent_dist.mean)


class _Decode(Adapter):
    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        # [B, 4, h, w] → [B, 3, 8h, 8w]
        return cast(torch.Tensor, self.model.decode(latent_sample, return_dict=False)[0])


class _VaeHalf(NetworkExport):
    part = "vae"
    max_batch = 4

    adapter: ClassVar[type[Adapter]]
    own_parts: ClassVar[tuple[str, str]]
    """The parts of the library's model in this half: the network, and the convolution next to the
    latent."""
    other_parts: ClassVar[tuple[str, str]]

    @property
    def latent_scale(self) -> float:
        """Factor on latents, so that their variance is about 1."""
        return float(self.config.get("scaling_factor", DEFAULT_LATENT_SCALE))

    def skeleton(self) -> Adapter:
        with torch.device("meta"):
            vae = _MODEL.from_config(dict(self.config))
        for part in self.other_parts:
            setattr(vae, part, None)
        return self.adapter(vae)

    def current_name(self, name: str) -> str | None:
        if name.split(".")[0] in self.other_parts:
            return None
        return _current_name(name)

    def sensitive(self, module: Adapter) -> Sequence[nn.Module]:
        """The values of SDXL's decoder exceed float16's range."""
        half = getattr(module.model, self.own_parts[0])
        convolutions = (half.conv_in, half.conv_norm_out, half.conv_out)
        stages = getattr(half, "down_blocks", None) or half.up_blocks
        scalers = (
            getattr(stage, "downsamplers", None) or getattr(stage, "upsamplers", None)
            for stage in stages
        )
        return [
            *convolutions,
            *half.mid_block.resnets,
            *half.mid_block.attentions,
            *(block for stage in stages for block in stage.resnets),
            *(scaler for each in scalers for scaler in each or ()),
        ]

    def prepare(self, module: Adapter, attention: Attention) -> None:
        attention.use_in_diffusers(module.model)


class VaeEncoder(_VaeHalf):
    """``sample`` FP32 [B, 3, H, W], −1…1, sides multiples of 8 → ``latent_mean`` FP32
    [B, 4, H/8, W/8], the posterior's mean, not scaled."""

    role = "vae_encoder"
    adapter = _EncodeMean
    own_parts, other_parts = _ENCODER, _DECODER
    exact_in_bf16 = True
    max_batch_area = 2 * 1024 * 1024
    """In pixels: 3.2 GB with SD's VAE in float32, 1.5 kB per pixel."""
    axes = (Axis("height_px", 32, 512, 2048), Axis("width_px", 32, 512, 2048))
    usual_side = 512
    spaces: ClassVar[Mapping[int, tuple[Space, ...]]] = {
        0: (Space(4, 512), Space(2, 1024)),
        40: (Space(4, 1024),),
    }
    checked_sizes = (
        {"height_px": 152, "width_px": 192},
        {"height_px": 128, "width_px": 104},
    )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("sample", "FP32", (self.config["in_channels"], "height_px", "width_px")),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("latent_mean", "FP32", (self.config["latent_channels"], "height", "width")),
        )

    def sizes_at(self, side: int) -> dict[str, int]:
        return {"height_px": side, "width_px": side}

    def fill(
        self, tensor: TensorSpec, shape: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """Pixels between −1 and 1."""
        return torch.rand(shape, generator=generator) * 2 - 1


class VaeDecoder(_VaeHalf):
    """``latent_sample`` FP32 [B, 4, h, w], divided by the scaling factor → ``sample`` FP32
    [B, 3, 8h, 8w], about −1…1, not clipped."""

    role = "vae_decoder"
    adapter = _Decode
    own_parts, other_parts = _DECODER, _ENCODER
    max_batch_area = 128 * 128
    """A picture of 1024²: 3.4 GB with SD's VAE in float32, 3.2 kB per pixel."""
    axes = (Axis("height", 4, 64, 256), Axis("width", 4, 64, 256))
    usual_side = 64
    spaces: ClassVar[Mapping[int, tuple[Space, ...]]] = {
        0: (Space(4, 64), Space(1, 128)),
        40: (Space(4, 128),),
    }
    checked_sizes = ({"height": 19, "width": 24}, {"height": 16, "width": 13})

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(
                "latent_sample", "FP32", (self.config["latent_channels"], "height", "width")
            ),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("sample", "FP32", (self.config["out_channels"], "height_px", "width_px")),
        )

    def sizes_at(self, side: int) -> dict[str, int]:
        return {"height": side, "width": side}

    def fill(
        self, tensor: TensorSpec, shape: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """Latents with the variance of real ones: 1 over the squared scaling factor."""
        return super().fill(tensor, shape, generator) / self.latent_scale


_OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _current_name(name: str) -> str:
    """The current name of an attention layer in a checkpoint from before diffusers 0.17."""
    if ".attentions." not in name:
        return name
    head, layer, kind = name.rsplit(".", 2)
    return f"{head}.{_OLD_ATTENTION_NAMES.get(layer, layer)}.{kind}"
