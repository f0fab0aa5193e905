"""A ControlNet in a single safetensors file, by diffusers' names or by the published ones."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from build_engines.checkpoint import Checkpoint, StoredTensor, read_tensors, refuse_pickle
from build_engines.errors import CheckpointError, first_names
from build_engines.options import PredictionType
from build_engines.single_file.configs import Shapes
from build_engines.single_file.layout import UNET_PREFIX, VAE_PREFIX, summary
from build_engines.single_file.names import controlnet_module
from build_engines.vocabulary import Vocabulary
from networks.diffusion import ADDITION_INPUT, ADDITION_SIZE
from pipelines.descriptor import NoiseSchedule

log = logging.getLogger(__name__)

_CONFIG = "config.json"
_PREFIX = "control_model."
_BESIDE = (UNET_PREFIX, VAE_PREFIX, "cond_stage_model.", "conditioner.", "model_ema.")
"""Prefixes in files that have the whole checkpoint beside its ControlNet."""
_HINT = "controlnet_cond_embedding."
_DIFFUSERS_KEY = f"{_HINT}conv_in.weight"
_PUBLISHED_KEY = "input_hint_block.0.weight"
_MIDDLE_TEXT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
_POOLED_NAME = "shuffle"
_OTHER_KINDS = {
    r"difference": "differences from the UNet of a base model, without its weights: add them to "
    "that model's and save a whole ControlNet",
    r"lora_controlnet": "a Control-LoRA; a whole ControlNet is needed",
    r"(task_embedding|(transformer_layes|control_add_embedding|spatial_ch_projs)\..+)": (
        "a ControlNet++ union, one network for several kinds of pictures; those for one kind are "
        "read"
    ),
    r"lllite_.+": "a ControlNet-LLLite; a whole ControlNet is needed",
    r"(adapter\.)?body\.\d+\..+": "a T2I-Adapter, not a ControlNet",
    r"(image_proj|ip_adapter)\..+": "an IP-Adapter, not a ControlNet",
    r"lora_(unet|te).+|.+\.lora_(A|down|up|B)\..+": "a LoRA, not a ControlNet",
    r".+\.motion_modules\..+": "a SparseCtrl of AnimateDiff, for videos",
    r"(controlnet_x_embedder|controlnet_blocks|double_blocks|joint_blocks)\..+": (
        "for a transformer such as SD 3 or Flux; UNets are built here"
    ),
}


@dataclass(frozen=True)
class SingleControlNet(Checkpoint):
    """A ControlNet in one file, presented as a diffusers folder with one part, its root."""

    root: Path
    config: Mapping[str, Any]
    rename: Callable[[str], str | None]
    """The file's names → diffusers'; None: not the ControlNet's."""

    def has(self, part: str) -> bool:
        return part == "."

    def vocabulary(self, tokenizer: str) -> Vocabulary:
        raise CheckpointError(f"{self.root}: a ControlNet has no {tokenizer}")

    def schedule(self) -> NoiseSchedule:
        raise CheckpointError(f"{self.root}: a ControlNet has no noise schedule")

    def prediction(self) -> PredictionType | None:
        return None

    def json(self, relative: str) -> dict[str, Any]:
        if relative != _CONFIG:
            raise CheckpointError(f"{self.root}: a single file has no {relative}")
        return dict(self.config)

    def tensors(self, part: str) -> Iterator[StoredTensor]:
        for tensor in read_tensors(self.root):
            if (name := self.rename(tensor.name)) is not None:
                yield replace(tensor, name=name)

    def source_files(self, parts: Iterable[str], tokenizers: Iterable[str]) -> dict[str, Path]:
        return {self.root.name: self.root}


def open_single_controlnet(path: Path, unet: Mapping[str, Any]) -> SingleControlNet:
    """Opens a ControlNet of a safetensors file; sizes are found by the shapes of its tensors.

    Args:
        path: the file. It cannot say whether its outputs are averaged over the picture, which of
            the published ones only "shuffle" needs: that is decided by this word in its name.
        unet: configuration of the UNet that it is for, which has the number of attention heads and
            the width of the size conditioning.

    Raises:
        CheckpointError: it is a pickle, broken, or not a ControlNet of a UNet.
    """
    refuse_pickle(path)
    if (path.parent / _CONFIG).is_file() and path.stem.startswith("diffusion_pytorch_model"):
        raise CheckpointError(f"{path}: part of a diffusers folder; give the folder {path.parent}")
    shapes = {tensor.name: tensor.shape for tensor in read_tensors(path)}
    rename = _renaming(path, shapes)
    renamed = {new: shape for name, shape in shapes.items() if (new := rename(name)) is not None}
    config = _config(Shapes(path, renamed, ""), unet)
    config["global_pool_conditions"] = pooled = _POOLED_NAME in path.stem.lower()
    if pooled:
        log.info("%s: by its name its outputs are averaged over the picture", path.name)
    return SingleControlNet(path, config, rename)


def _renaming(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Callable[[str], str | None]:
    """The translation of the file's names to diffusers'.

    Raises:
        CheckpointError: it is not a ControlNet of a UNet, or has tensors that do not belong to it.
    """
    for pattern, reason in _OTHER_KINDS.items():
        for name in shapes:
            if re.fullmatch(pattern, name.removeprefix(_PREFIX)):
                raise CheckpointError(f"{path}: has {name}: {reason}")
    if _DIFFUSERS_KEY in shapes:
        return lambda name: name
    prefix = _PREFIX if f"{_PREFIX}{_PUBLISHED_KEY}" in shapes else ""
    if f"{prefix}{_PUBLISHED_KEY}" not in shapes:
        raise CheckpointError(
            f"{path}: not a ControlNet of a known layout. Looked for {_DIFFUSERS_KEY}, "
            f"{_PREFIX}{_PUBLISHED_KEY} and {_PUBLISHED_KEY}; found: {summary(shapes)}"
        )
    foreign = [name for name in shapes if prefix and not name.startswith((prefix, *_BESIDE))]
    if foreign:
        raise CheckpointError(f"{path}: tensors of no ControlNet: {first_names(foreign)}")
    names = [name.removeprefix(prefix) for name in shapes if name.startswith(prefix)]
    layers = max(1, _first(names, r"input_blocks\.(\d+)\.0\.op\.weight", min) - 1)
    last_hint = _first(names, r"input_hint_block\.(\d+)\.weight", max)

    def rename(name: str) -> str | None:
        if not name.startswith(prefix):
            return None
        module, _, kind = name.removeprefix(prefix).rpartition(".")
        return f"{controlnet_module(module, layers, last_hint)}.{kind}"

    return rename


def _first(names: Iterable[str], pattern: str, choose: Callable[..., int]) -> int:
    """The least or greatest number in the names of a pattern; 2 if there are none."""
    found = (re.fullmatch(pattern, name) for name in names)
    return choose((int(match[1]) for match in found if match), default=2)


def _config(shapes: Shapes, unet: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration by the shapes under diffusers' names."""
    blocks = range(shapes.count("down_blocks.{}."))
    where = [f"down_blocks.{index}.attentions.0.transformer_blocks." for index in blocks]
    depths = [shapes.count(f"{each}{{}}.") for each in where]
    middle = shapes.count("mid_block.attentions.0.transformer_blocks.{}.")
    texts = [f"{each}0.attn2.to_k.weight" for each in where]
    texts = [name for name in (*texts, _MIDDLE_TEXT) if name in shapes]
    sized = "add_embedding.linear_1.weight" in shapes
    steps = range(1, shapes.count(f"{_HINT}blocks.{{}}."), 2)
    hints = (f"{_HINT}conv_in.weight", *(f"{_HINT}blocks.{index}.weight" for index in steps))
    return {
        "_class_name": "ControlNetModel",
        "in_channels": shapes.size("conv_in.weight", 1),
        "conditioning_channels": shapes.size(hints[0], 1),
        "conditioning_embedding_out_channels": [shapes.size(name, 0) for name in hints],
        "block_out_channels": [
            shapes.size(f"down_blocks.{index}.resnets.0.conv2.weight", 0) for index in blocks
        ],
        "layers_per_block": shapes.count("down_blocks.0.resnets.{}."),
        "down_block_types": [
            "CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths
        ],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        # The middle block has the depth of the last one.
        "transformer_layers_per_block": [*(depth or 1 for depth in depths[:-1]), middle or 1],
        "cross_attention_dim": (
            shapes.size(texts[0], 1) if texts else unet.get("cross_attention_dim")
        ),
        "use_linear_projection": any(
            shapes.axes(name.split(".transformer_blocks")[0] + ".proj_in.weight") == 2
            for name in texts
        ),
        "attention_head_dim": unet.get("attention_head_dim", 8),
        "num_attention_heads": unet.get("num_attention_heads"),
        "addition_embed_type": "text_time" if sized else None,
        ADDITION_SIZE: unet.get(ADDITION_SIZE) if sized else None,
        ADDITION_INPUT: shapes.size("add_embedding.linear_1.weight", 1) if sized else None,
    }
