"""Writes a diffusers folder of the tests as a single file in the published layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from build_engines.checkpoint import DiffusersFolder
from examples.ldm_layout import TEXT_PREFIXES, published


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
