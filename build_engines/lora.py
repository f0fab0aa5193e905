"""Folds LoRAs into a checkpoint's weights as they are loaded: W + weight · alpha/rank · up · down.

LoRA is low-rank adaptation, arXiv 2106.09685; for convolutions as in LoCon, with or without a
middle matrix.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from build_engines.checkpoint import Checkpoint, StoredTensor
from build_engines.errors import BuildError, CheckpointError
from build_engines.lora_file import LoraModule, first_names, read_lora
from build_engines.overlay import Overlay
from build_engines.single_file.names import unet_module

log = logging.getLogger(__name__)

_PUBLISHED_BLOCK = re.compile(
    r"(input_blocks|output_blocks)_(\d+)_(\d+)_(.+)|(middle_block)_(\d)_(.+)"
)


@dataclass(frozen=True)
class Change:
    """The change of one weight by one LoRA."""

    module: LoraModule
    weight: float

    def apply(self, value: torch.Tensor) -> torch.Tensor:
        """The weight [O, I] or [O, I, k, k] with the change added; float32."""
        delta = low_rank_product(
            {role: tensor.read() for role, tensor in self.module.tensors.items()}
        )
        scale = self.weight * self.module.scale
        return value.to(torch.float32) + scale * delta.reshape(value.shape)


class WithLoras(Overlay):
    """A checkpoint with LoRAs folded in."""

    def __init__(self, base: Checkpoint, loras: Sequence[tuple[Path, float]]) -> None:
        """
        Args:
            base: the checkpoint.
            loras: safetensors files with their weights.

        Raises:
            CheckpointError: a file cannot be read, or does not fit the checkpoint.
            BuildError: a weight is not finite.
        """
        super().__init__(base)
        self._files = {
            f"loras/{number}/{path.name}:{weight:g}": path
            for number, (path, weight) in enumerate(loras)
        }
        self._changes: dict[tuple[str, str], list[Change]] = defaultdict(list)
        parts: dict[str, dict[str, StoredTensor]] = {}
        for path, weight in loras:
            if not math.isfinite(weight):
                raise BuildError(f"lora: {path}: weight {weight} is not a finite number")
            matched = _match(path, read_lora(path), base, parts)
            for target, module in matched:
                if weight:
                    self._changes[target].append(Change(module, weight))

    def tensors(self, part: str) -> Iterator[StoredTensor]:
        for tensor in self.base.tensors(part):
            changes = self._changes.get((part, _plain(tensor.name)))
            yield replace(tensor, read=partial(_changed, tensor, changes)) if changes else tensor

    def source_files(self, parts: Iterable[str], tokenizers: Iterable[str]) -> dict[str, Path]:
        return {**self.base.source_files(parts, tokenizers), **self._files}


def low_rank_product(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """up · down, or up · mid · down, in float32.

    Args:
        tensors: "down" [r, I] or [r, I, k, k]; "up" [O, r] or [O, r, 1, 1]; optionally "mid"
            [r, r, k, k], and then down is [r, I, 1, 1].

    Returns:
        [O, I·k·k], or [O, I, k, k] with "mid".
    """
    up, down = (tensors[role].to(torch.float32).flatten(1) for role in ("up", "down"))
    if "mid" not in tensors:
        return up @ down
    return torch.einsum("or,rskl,si->oikl", up, tensors["mid"].to(torch.float32), down)


def _changed(tensor: StoredTensor, changes: Sequence[Change]) -> torch.Tensor:
    value = tensor.read()
    for change in changes:
        value = change.apply(value)
    return value


def _match(
    path: Path,
    modules: Sequence[LoraModule],
    base: Checkpoint,
    parts: dict[str, dict[str, StoredTensor]],
) -> list[tuple[tuple[str, str], LoraModule]]:
    """The weight that each module changes, by part and name; ``parts`` caches their lists."""
    matched, unknown, misfits = [], [], []
    absent: Counter[str] = Counter()
    for module in modules:
        if not base.has(module.part):
            absent[module.part] += 1
            continue
        if module.part not in parts:
            parts[module.part] = _weights(base, module.part)
        weight = parts[module.part].get(_target(module, base))
        if weight is None:
            unknown.append(module.key)
        elif not _fits(module, weight.shape):
            shapes = {role: list(tensor.shape) for role, tensor in module.tensors.items()}
            misfits.append(f"{module.key} {shapes} for {list(weight.shape)}")
        else:
            matched.append(((module.part, _plain(weight.name)), module))
    if unknown:
        raise CheckpointError(
            f"{path}: does not fit the checkpoint, which has no modules {first_names(unknown)}"
        )
    if misfits:
        raise CheckpointError(
            f"{path}: does not fit the checkpoint, other shapes: {first_names(misfits)}"
        )
    if not matched:
        raise CheckpointError(
            f"{path}: changes nothing: the checkpoint has no {' and no '.join(absent)}"
        )
    for part, count in absent.items():
        log.info("%s: %d modules left out: the checkpoint has no %s", path.name, count, part)
    return matched


def _weights(base: Checkpoint, part: str) -> dict[str, StoredTensor]:
    """The weights that can be changed, by their module's dotted and flattened names."""
    weights = {}
    for tensor in base.tensors(part):
        module, _, kind = _plain(tensor.name).rpartition(".")
        if kind == "weight" and len(tensor.shape) > 1:
            weights[module] = weights[_flat(module)] = tensor
    return weights


def _target(module: LoraModule, base: Checkpoint) -> str:
    """The module's name among those of :func:`_weights`."""
    if module.part != "unet":
        return module.name.removeprefix("text_model_" if module.flattened else "text_model.")
    if not module.flattened:
        return module.name
    name = module.name
    if match := _PUBLISHED_BLOCK.fullmatch(name):
        name = ".".join(filter(None, match.groups()))
    return _flat(unet_module(name, base.json("unet/config.json")["layers_per_block"]))


def _fits(module: LoraModule, shape: tuple[int, ...]) -> bool:
    """Whether the product of the module's matrices has a shape [O, I] or [O, I, k, k]."""
    up, down = module.tensors["up"].shape, module.tensors["down"].shape
    mid = module.tensors["mid"].shape if "mid" in module.tensors else None
    if len(up) < 2 or len(down) < 2 or math.prod(up[2:]) != 1:
        return False
    rank = down[0]
    if mid is not None:
        return (*up[:2], *down[1:], *mid) == (
            shape[0],
            rank,
            shape[1],
            1,
            1,
            rank,
            rank,
            *shape[2:],
        )
    return (
        up[:2] == (shape[0], rank)
        and down[1] == shape[1]
        and (math.prod(down[2:]) == math.prod(shape[2:]))
    )


def _plain(name: str) -> str:
    """A text encoder's name without its optional prefix."""
    return name.removeprefix("text_model.")


def _flat(name: str) -> str:
    return name.replace(".", "_")
