"""Writes diffusers folders of the tests as single files in the published layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from build_engines.checkpoint import DiffusersFolder
from examples.ldm_layout import TEXT_PREFIXES, published, unet_module


def single_file_tensors(folder: Path, family: str) -> dict[str, torch.Tensor]:
    """The tensors of the folder's checkpoint under their published names."""
    parts = ["unet", "vae", *TEXT_PREFIXES[family]]
    checkpoint = DiffusersFolder(folder)
    state = {part: load_file(checkpoint.path(*checkpoint.weights(part))) for part in parts}
    configs = {part: checkpoint.json(f"{part}/config.json") for part in parts}
    shapes = {
        part: {name: tuple(value.shape) for name, value in tensors.items()}
        for part, tensors in state.items()
    }
    tensors = {}
    for stored in published(family, configs, shapes):
        value = torch.cat([state[stored.part][source] for source in stored.sources])
        tensors[stored.name] = (
            value.T if stored.transposed else value.reshape(stored.shape)
        ).clone(memory_format=torch.contiguous_format)
    return tensors


def write_single_file(
    path: Path, folder: Path, family: str, metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes the file; returns its path."""
    save_file(single_file_tensors(folder, family), path, dict(metadata or {"format": "pt"}))
    return path


def published_controlnet(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ControlNet's folder under their published names, without a prefix."""
    checkpoint = DiffusersFolder(folder)
    layers = checkpoint.json("config.json")["layers_per_block"]
    tensors = {}
    (weights,) = checkpoint.weights(".")
    for name, value in load_file(checkpoint.path(weights)).items():
        module, _, kind = name.rpartition(".")
        tensors[f"{_controlnet_module(module, layers)}.{kind}"] = value
    return tensors


def _controlnet_module(module: str, layers: int) -> str:
    first, _, rest = module.partition(".")
    if first == "controlnet_down_blocks":
        return f"zero_convs.{rest}.0"
    if first == "controlnet_mid_block":
        return "middle_block_out.0"
    if first == "controlnet_cond_embedding":
        if rest in ("conv_in", "conv_out"):
            return f"input_hint_block.{0 if rest == 'conv_in' else 14}"
        return f"input_hint_block.{2 * (int(rest.removeprefix('blocks.')) + 1)}"
    return unet_module(module, layers, ())
