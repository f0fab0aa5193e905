"""Reads a LoRA file: the modules that it changes, their parts and tensors.

Two layouts are read. kohya's: ``lora_unet_down_blocks_0_….lora_down.weight``, ``.lora_up.weight``,
``.alpha`` (modules' names flattened with underscores; ``lora_te``, ``lora_te1``, ``lora_te2`` for
text encoders; UNets also by their published names, as for SDXL). And diffusers' and PEFT's:
``unet.down_blocks.0.….lora_A.weight``, ``.lora_B.weight``, or ``.lora.down.weight``.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from build_engines.checkpoint import StoredTensor, read_metadata, read_tensors, refuse_pickle
from build_engines.errors import CheckpointError

_PEFT_METADATA = "lora_adapter_metadata"
_KOHYA_PARTS = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
_DOTTED_PARTS = ("unet", "text_encoder", "text_encoder_2")
_ROLES = {
    "lora_down": "down",
    "lora_up": "up",
    "lora_mid": "mid",
    "lora_A": "down",
    "lora_B": "up",
    "lora.down": "down",
    "lora.up": "up",
    "lora_linear_layer.down": "down",
    "lora_linear_layer.up": "up",
}
_WEIGHT = re.compile(rf"(.+)\.({'|'.join(map(re.escape, _ROLES))})(?:\.default)?\.weight")
_OLD_PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora\.")


@dataclass
class LoraModule:
    """The change of one module: ``scale · up · down``, or ``scale · up · mid · down``."""

    key: str
    """Its name in the file, for messages."""
    part: str
    name: str
    """Dotted in diffusers' layout, flattened in kohya's."""
    flattened: bool
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    alpha: float | None = None
    rank_stabilised: bool = False

    @property
    def scale(self) -> float:
        """alpha over the rank (over its root if stabilised, arXiv 2312.03732); 1 without alpha."""
        rank = self.tensors["down"].shape[0]
        if self.alpha is None:
            return 1.0
        return self.alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def read_lora(path: Path) -> list[LoraModule]:
    """The modules that the file changes; their tensors are not read yet.

    Raises:
        CheckpointError: it is a pickle, broken, or has unknown tensors.
    """
    refuse_pickle(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such LoRA file")
    modules: dict[str, LoraModule] = {}
    unknown = []
    for tensor in read_tensors(path):
        stem, role = _split(tensor.name)
        module = modules.get(stem) or _module(stem)
        if module is None or role is None:
            unknown.append(tensor.name)
            continue
        modules[stem] = module
        if role == "alpha":
            module.alpha = float(tensor.read())
        else:
            module.tensors[role] = tensor
    if unknown or not modules:
        raise CheckpointError(
            f"{path}: not a LoRA of kohya's or diffusers' layout: "
            + (f"unknown tensors {first_names(unknown)}" if unknown else "it is empty")
        )
    for module in modules.values():
        if not {"up", "down"} <= module.tensors.keys():
            raise CheckpointError(f"{path}: {module.key} has not both, an up and a down matrix")
    _apply_metadata(path, modules)
    return list(modules.values())


def first_names(names: list[str]) -> str:
    """The first three names, and their number."""
    return ", ".join(names[:3]) + (f" … ({len(names)})" if len(names) > 3 else "")


def _split(name: str) -> tuple[str, str | None]:
    """Splits a tensor's name into its module's name and its role."""
    name = _OLD_PROCESSOR.sub(lambda m: f".to_{m[1]}{'.0' * (m[1] == 'out')}.lora.", name)
    if name.endswith(".alpha"):
        return name.removesuffix(".alpha"), "alpha"
    match = _WEIGHT.fullmatch(name)
    return (match[1], _ROLES[match[2]]) if match else (name, None)


def _module(stem: str) -> LoraModule | None:
    for prefix, part in _KOHYA_PARTS.items():
        if stem.startswith(prefix):
            return LoraModule(stem, part, stem.removeprefix(prefix), flattened=True)
    part, _, name = stem.partition(".")
    if part in _DOTTED_PARTS and name:
        return LoraModule(stem, part, name, flattened=False)
    return None


def _apply_metadata(path: Path, modules: dict[str, LoraModule]) -> None:
    """Reads alpha from the metadata, where diffusers stores it if it is not the rank."""
    text = read_metadata(path).get(_PEFT_METADATA)
    if text is None:
        return
    try:
        settings: dict[str, Any] = json.loads(text)
        for module in modules.values():
            if module.flattened:
                continue
            if settings.get(f"{module.part}.use_dora"):
                raise CheckpointError(f"{path}: a DoRA; only LoRA can be folded in")
            module.rank_stabilised = bool(settings.get(f"{module.part}.use_rslora"))
            if module.alpha is None:
                patterns = settings.get(f"{module.part}.alpha_pattern") or {}
                alpha = patterns.get(module.name, settings.get(f"{module.part}.lora_alpha"))
                module.alpha = None if alpha is None else float(alpha)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: {_PEFT_METADATA} is not readable: {error}") from error
