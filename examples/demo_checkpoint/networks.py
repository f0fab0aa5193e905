"""The checkpoint's networks: their sizes, and new ones to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

TEXT_WIDTH = 48
LATENT_CHANNELS = 4
PIXELS_PER_LATENT = 8
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}

_VAE: dict[str, Any] = {
    "block_out_channels": [16, 32, 64, 128],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "latent_channels": LATENT_CHANNELS,
    # Normalising few channels together would take a flat picture's hue away.
    "norm_num_groups": 1,
    "scaling_factor": 1.0,
    "sample_size": 128,
}
_UNET: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": [64, 112],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,  # diffusers' name for the number of heads
    "norm_num_groups": 8,
}
_TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 4 * TEXT_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
_CONTROLNET_WIDTHS = (16, 32, 64, 96)

# diffusers' and transformers' classes are not typed.
_AutoencoderKL: Any = AutoencoderKL
_Scheduler: Any = DDIMScheduler
_UNet: Any = UNet2DConditionModel
_ControlNet: Any = ControlNetModel
_TextModel: Any = CLIPTextModel


def new_scheduler() -> Any:
    """The noise that all are trained with, and a sampler."""
    return _Scheduler.from_config(SCHEDULER)


def new_vae() -> Any:
    """An AutoencoderKL, factor 8, 4 channels."""
    return _AutoencoderKL(**_VAE)


def new_unet(in_channels: int = LATENT_CHANNELS) -> Any:
    """A UNet with cross-attention; 9 channels make an inpainting network."""
    return _UNet(in_channels=in_channels, **_UNET)


def new_text_encoder() -> Any:
    """A CLIP text encoder for the standard vocabulary."""
    return _TextModel(CLIPTextConfig(**_TEXT))


def new_controlnet(unet: Any) -> Any:
    """A ControlNet that begins as a copy of the UNet's way down."""
    return _ControlNet.from_unet(unet, conditioning_embedding_out_channels=_CONTROLNET_WIDTHS)


def widened(unet: Any) -> Any:
    """An inpainting UNet that begins as this one: the further channels have no effect yet."""
    wide = new_unet(2 * LATENT_CHANNELS + 1)
    weights = unet.state_dict()
    first = torch.zeros_like(wide.conv_in.weight)
    first[:, :LATENT_CHANNELS] = weights["conv_in.weight"]
    wide.load_state_dict({**weights, "conv_in.weight": first})
    return wide


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a network that diffusers or transformers saved, float32.

    Raises:
        FileNotFoundError: the folder has none.
    """
    for name in ("diffusion_pytorch_model.safetensors", "model.safetensors"):
        if (folder / name).exists():
            return {key: value.float() for key, value in load_file(folder / name).items()}
    raise FileNotFoundError(f"{folder}: no weights")
