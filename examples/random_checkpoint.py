"""Writes a checkpoint with random weights: for load tests and memory measurements.

    python -m examples.random_checkpoint OUT --size sd15 --tokenizer DIR
    python -m examples.random_checkpoint OUT.safetensors --size sdxl --layout single
    python -m examples.random_checkpoint OUT --size sd15 --layout controlnet

``sd15`` has Stable Diffusion 1.5's networks and their size (UNet 860 M parameters, text encoder
123 M, VAE 84 M), ``sdxl`` Stable Diffusion XL's (UNet 2567 M, text encoders 123 M and 695 M, VAE
84 M), ``tiny`` a few hundred thousand. OUT becomes a diffusers folder or, with ``--layout
single``, one file in the published layout, or, with ``--layout controlnet``, a diffusers folder
of a ControlNet for that UNet; weights are float16. DIR holds CLIP's vocab.json and
merges.txt, which are copied into a folder; a single file has none. The same seed gives the same
weights in both layouts. One tensor at a time is in memory.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from examples.ldm_layout import Shape, published

log = logging.getLogger("random_checkpoint")

_DIFFUSERS_UNET: Any = UNet2DConditionModel  # diffusers' classes are not typed
_DIFFUSERS_VAE: Any = AutoencoderKL
_DIFFUSERS_CONTROLNET: Any = ControlNetModel


@dataclass(frozen=True)
class Size:
    """The configurations of the networks."""

    family: str
    text: Mapping[str, Mapping[str, Any]]
    """By their part; one with a projection_dim has the projection of the pooled output."""
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]


_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}
_OPENCLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
_VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
SIZES = {
    "tiny": Size(
        family="sd1",
        text={
            "text_encoder": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 3,
                "num_attention_heads": 1,  # 64 wide or one, which a single file cannot tell
                "hidden_act": "quick_gelu",
            }
        },
        unet={
            "block_out_channels": [32, 64],
            "layers_per_block": 1,
            "cross_attention_dim": 32,
            "attention_head_dim": 8,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        },
        vae={"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1},
    ),
    "sd15": Size(
        family="sd1",
        text={"text_encoder": _CLIP_L},
        unet={
            "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        },
        vae=_VAE,
    ),
    "sdxl": Size(
        family="sdxl",
        text={"text_encoder": _CLIP_L, "text_encoder_2": _OPENCLIP_G},
        unet={
            "block_out_channels": [320, 640, 1280],
            "layers_per_block": 2,
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 1280 + 6 * 256,
        },
        vae={**_VAE, "scaling_factor": 0.13025},
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
PIPELINES = {"sd1": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


def write_checkpoint(out: Path, size: str, tokenizer: Path, seed: int = 0) -> None:
    """Writes the checkpoint as a diffusers folder.

    Args:
        out: the folder to make.
        size: a key of :data:`SIZES`.
        tokenizer: folder with vocab.json and merges.txt.
        seed: of the weights.

    Raises:
        OSError: a file cannot be written, or the tokenizer's cannot be read.
    """
    networks = meta_networks(SIZES[size])
    index: dict[str, Any] = {"_class_name": PIPELINES[SIZES[size].family]}
    index["scheduler"] = ["diffusers", SCHEDULER["_class_name"]]
    for part, (module, config) in networks.items():
        text = part in SIZES[size].text
        _write_part(out / part, part, module, config, seed)
        index[part] = ["transformers" if text else "diffusers", type(module).__name__]
    for part in SIZES[size].text:
        folder = part.replace("text_encoder", "tokenizer")
        _copy_tokenizer(tokenizer, out / folder, "!" if part == "text_encoder_2" else None)
        index[folder] = ["transformers", "CLIPTokenizer"]
    _write_json(out / "scheduler/scheduler_config.json", SCHEDULER)
    _write_json(out / "model_index.json", index)


def write_controlnet(out: Path, size: str, seed: int = 0) -> None:
    """Writes a ControlNet for that size of UNet as a diffusers folder.

    Args:
        out: the folder to make.
        size: a key of :data:`SIZES`.
        seed: of the weights.

    Raises:
        OSError: a file cannot be written.
    """
    with torch.device("meta"):
        unet = _DIFFUSERS_UNET(sample_size=64, **SIZES[size].unet)
        controlnet = _DIFFUSERS_CONTROLNET.from_unet(unet, load_weights_from_unet=False)
    config = {**controlnet.config, "_class_name": type(controlnet).__name__}
    log.info("controlnet: %.1f M parameters", _count(controlnet) / 1e6)
    _write_part(out, "controlnet", controlnet, config, seed)


def write_single_file(out: Path, size: str, seed: int = 0) -> None:
    """Writes the same weights as one file in the published layout.

    Args:
        out: the file.
        size: a key of :data:`SIZES`.
        seed: of the weights.

    Raises:
        OSError: the file cannot be written.
    """
    networks = meta_networks(SIZES[size])
    shapes = {part: _shapes(module) for part, (module, _) in networks.items()}
    configs = {part: config for part, (_, config) in networks.items()}
    tensors = {each.name: each for each in published(SIZES[size].family, configs, shapes)}

    def value(name: str) -> torch.Tensor:
        tensor = tensors[name]
        of_part = shapes[tensor.part]
        pieces = [_random(tensor.part, key, of_part[key], seed) for key in tensor.sources]
        joined = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        return joined.T.contiguous() if tensor.transposed else joined

    _write_safetensors(out, {name: tensor.shape for name, tensor in tensors.items()}, value)


def meta_networks(size: Size) -> dict[str, tuple[nn.Module, Mapping[str, Any]]]:
    """Each network, its weights on the meta device, and its configuration, by part."""
    blocks = len(size.vae["block_out_channels"])
    vae_types = {
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "latent_channels": 4,
    }
    networks: dict[str, tuple[nn.Module, Mapping[str, Any]]] = {}
    with torch.device("meta"):
        for part, settings in size.text.items():
            config = CLIPTextConfig(bos_token_id=49406, eos_token_id=49407)
            config.update({**settings, "vocab_size": 49408, "max_position_embeddings": 77})
            projected = "projection_dim" in settings
            encoder = CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)
            networks[part] = (encoder, config.to_dict())
        unet = _DIFFUSERS_UNET(sample_size=64, **size.unet)
        vae = _DIFFUSERS_VAE(sample_size=512, **vae_types, **size.vae)
    for part, module in (("unet", unet), ("vae", vae)):
        networks[part] = (module, {**module.config, "_class_name": type(module).__name__})
    for part, (module, _) in networks.items():
        log.info("%s: %.1f M parameters", part, _count(module) / 1e6)
    return networks


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _write_part(
    folder: Path, part: str, module: nn.Module, config: Mapping[str, Any], seed: int
) -> None:
    """One network of a diffusers folder: config.json and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    shapes = _shapes(module)
    _write_safetensors(
        folder / f"{name}.safetensors",
        shapes,
        lambda key: _random(part, key, shapes[key], seed),
    )
    _write_json(folder / "config.json", config)


def _shapes(module: nn.Module) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _copy_tokenizer(source: Path, out: Path, padding: str | None) -> None:
    out.mkdir(exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(source / name, out / name)
    _write_json(out / "tokenizer_config.json", {"pad_token": padding or "<|endoftext|>"})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")


def _write_safetensors(
    path: Path, shapes: Mapping[str, Shape], value: Callable[[str], torch.Tensor]
) -> None:
    """The safetensors format: header length (8 bytes, little-endian), JSON header, raw values."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in shapes:
            file.write(value(name).to(torch.float16).numpy().tobytes())


def _random(part: str, name: str, shape: Shape, seed: int) -> torch.Tensor:
    """Weights that depend on the tensor's name, not on those written before it."""
    own_seed = zlib.crc32(f"{seed} {part} {name}".encode())
    return scaled(name, torch.randn(shape, generator=torch.Generator().manual_seed(own_seed)))


def scaled(name: str, values: torch.Tensor) -> torch.Tensor:
    """Standard normal values as the weights of that name which keep a signal's scale: norms near
    1, layers by their number of inputs."""
    if values.ndim > 1:
        inputs = 1e4 if "embedding.weight" in name else math.prod(values.shape[1:])
        return values / math.sqrt(inputs)
    return values * 0.02 + (1 if name.endswith("weight") else 0)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the folder or file to write")
    parser.add_argument("--size", choices=sorted(SIZES), default="sd15")
    parser.add_argument(
        "--layout", choices=("diffusers", "single", "controlnet"), default="diffusers"
    )
    parser.add_argument(
        "--tokenizer", type=Path, help="folder with vocab.json and merges.txt, for diffusers"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.layout == "single":
        write_single_file(options.out, options.size, options.seed)
    elif options.layout == "controlnet":
        write_controlnet(options.out, options.size, options.seed)
    elif options.tokenizer is None:
        parser.error("--tokenizer is needed for a diffusers folder")
    else:
        write_checkpoint(options.out, options.size, options.tokenizer, options.seed)


if __name__ == "__main__":
    main()
