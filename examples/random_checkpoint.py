"""Writes an SD1.x checkpoint with random weights: for load tests and memory measurements.

    python examples/random_checkpoint.py OUT --size sd15 --tokenizer DIR

OUT becomes a diffusers folder with float16 safetensors. ``sd15`` has Stable Diffusion 1.5's
networks and their size (UNet 860 M parameters, text encoder 123 M, VAE 84 M), ``tiny`` a few
hundred thousand. DIR holds CLIP's vocab.json and merges.txt, which are copied. The same seed
gives the same files. One tensor at a time is in memory.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

log = logging.getLogger("random_checkpoint")

_DIFFUSERS_UNET: Any = UNet2DConditionModel  # diffusers' classes are not typed
_DIFFUSERS_VAE: Any = AutoencoderKL


@dataclass(frozen=True)
class Size:
    """The configurations of the three networks."""

    text_encoder: Mapping[str, Any]
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]


SIZES = {
    "tiny": Size(
        text_encoder={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        },
        unet={
            "block_out_channels": [32, 64],
            "layers_per_block": 1,
            "cross_attention_dim": 32,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        },
        vae={"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1},
    ),
    "sd15": Size(
        text_encoder={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        unet={
            "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2,
            "cross_attention_dim": 768,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        },
        vae={"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2},
    ),
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_checkpoint(out: Path, size: str, tokenizer: Path, seed: int = 0) -> None:
    """Writes the checkpoint.

    Args:
        out: the folder to make.
        size: a key of :data:`SIZES`.
        tokenizer: folder with vocab.json and merges.txt.
        seed: of the weights.

    Raises:
        OSError: a file cannot be written, or the tokenizer's cannot be read.
    """
    sizes = SIZES[size]
    text = CLIPTextConfig(hidden_act="quick_gelu", bos_token_id=49406, eos_token_id=49407)
    text.update({**sizes.text_encoder, "vocab_size": 49408, "max_position_embeddings": 77})
    blocks = len(sizes.vae["block_out_channels"])
    vae_types = {
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "latent_channels": 4,
    }
    with torch.device("meta"):
        encoder = CLIPTextModel(text)
        unet: nn.Module = _DIFFUSERS_UNET(sample_size=64, attention_head_dim=8, **sizes.unet)
        vae: nn.Module = _DIFFUSERS_VAE(sample_size=512, **vae_types, **sizes.vae)
    generator = torch.Generator().manual_seed(seed)
    for part, module in (("text_encoder", encoder), ("unet", unet), ("vae", vae)):
        name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        (out / part).mkdir(parents=True, exist_ok=True)
        _write_weights(module, out / part / f"{name}.safetensors", generator)
        log.info("%s: %.1f M parameters", part, sum(p.numel() for p in module.parameters()) / 1e6)
    _write_json(out / "text_encoder/config.json", text.to_dict())
    _write_json(out / "unet/config.json", dict(_config(unet)))
    _write_json(out / "vae/config.json", dict(_config(vae)))
    _write_json(out / "scheduler/scheduler_config.json", SCHEDULER)
    _write_json(out / "model_index.json", MODEL_INDEX)
    (out / "tokenizer").mkdir(exist_ok=True)
    _write_json(out / "tokenizer/tokenizer_config.json", {"pad_token": "<|endoftext|>"})
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(tokenizer / name, out / "tokenizer" / name)


def _config(module: Any) -> Mapping[str, Any]:
    return {**module.config, "_class_name": type(module).__name__}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")


def _write_weights(module: nn.Module, path: Path, generator: torch.Generator) -> None:
    """The safetensors format: header length (8 bytes, little-endian), JSON header, raw values."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, value in module.state_dict().items():
        start, end = end, end + 2 * value.numel()
        offsets = [start, end]
        header[name] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name, value in module.state_dict().items():
            tensor = _random(name, value.shape, generator)
            file.write(tensor.to(torch.float16).numpy().tobytes())


def _random(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Values that keep a signal's scale: norms near 1, layers by their number of inputs."""
    values: torch.Tensor = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        inputs = 1e4 if "embedding.weight" in name else shape[1:].numel()
        return values / math.sqrt(inputs)
    return values * 0.02 + (1 if name.endswith("weight") else 0)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--size", choices=sorted(SIZES), default="sd15")
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="folder with vocab.json and merges.txt"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_checkpoint(options.out, options.size, options.tokenizer, options.seed)


if __name__ == "__main__":
    main()
