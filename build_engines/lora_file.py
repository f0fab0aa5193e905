"""Reads a LoRA file: the modules that it changes, and their tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from build_engines.checkpoint import StoredTensor, read_tensors, refuse_pickle
from build_engines.errors import CheckpointError, first_names
from build_engines.lora_keys import Key, other_kind, split_key
from build_engines.lora_settings import ADAPTER_FILE, Settings, read_settings, settings_file

_FOLDER_FILES = (ADAPTER_FILE, "pytorch_lora_weights.safetensors")
"""In the folders that PEFT and diffusers save a LoRA to."""


@dataclass
class LoraModule:
    """The change of one module: ``alpha/rank · up · down`` or ``alpha/rank · up · mid · down``
    and "diff" on its weight, "diff_b" on its bias."""

    key: Key
    """Of its first tensor."""
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    """By their roles."""
    alpha: float | None = None
    rank_stabilised: bool = False

    @property
    def changes(self) -> list[str]:
        """What it changes: "weight", "bias" or both."""
        found = [("weight", {"up", "diff"}), ("bias", {"diff_b"})]
        return [name for name, roles in found if roles & self.tensors.keys()]

    @property
    def scale(self) -> float:
        """alpha over the rank (over its root if stabilised, arXiv 2312.03732); 1 without alpha."""
        if self.alpha is None:
            return 1.0
        rank = self.tensors["down"].shape[0]
        return self.alpha / (math.sqrt(rank) if self.rank_stabilised else rank)

    def fits(self, changed: str, shape: tuple[int, ...]) -> bool:
        """Whether the change is of a shape: [O, I] or [O, I, k, k], or any with a difference."""
        role = "diff" if changed == "weight" else "diff_b"
        if role in self.tensors and self.tensors[role].shape != shape:
            return False
        return changed == "bias" or "up" not in self.tensors or self._product_fits(shape)

    def delta(self, changed: str, strength: float, shape: Sequence[int]) -> torch.Tensor:
        """The change of the weight or the bias at this strength; float32 of the shape."""
        read = {role: tensor.read().to(torch.float32) for role, tensor in self.tensors.items()}
        if changed == "bias":
            return strength * read["diff_b"]
        total = torch.zeros(*shape)
        if "up" in read:
            total = strength * self.scale * low_rank_product(read).reshape(*shape)
        return total + strength * read["diff"] if "diff" in read else total

    def _product_fits(self, shape: tuple[int, ...]) -> bool:
        up, down = self.tensors["up"].shape, self.tensors["down"].shape
        if min(len(up), len(down), len(shape)) < 2 or math.prod(up[2:]) != 1 or not down[0]:
            return False
        if up[:2] != (shape[0], down[0]) or down[1] != shape[1]:
            return False
        if "mid" in self.tensors:
            middle = (down[0], down[0], *shape[2:])
            return self.tensors["mid"].shape == middle and math.prod(down[2:]) == 1
        return math.prod(down[2:]) == math.prod(shape[2:])


@dataclass(frozen=True)
class LoraFile:
    """A LoRA as it is read."""

    path: Path
    modules: Sequence[LoraModule]
    """Their tensors are read again when they are used."""

    @property
    def sources(self) -> list[Path]:
        """The files that it is read from, the weights' first."""
        beside = settings_file(self.path)
        return [self.path] if beside is None else [self.path, beside]


def read_lora(path: Path) -> LoraFile:
    """Reads a LoRA's modules, and every value once, to refuse what is not finite.

    Args:
        path: a safetensors file, or the folder that PEFT or diffusers saved it to.

    Raises:
        CheckpointError: it is a pickle, broken, empty or of another kind of adapter, or a value is
            NaN or infinite.
    """
    path = _file(path)
    keys: list[tuple[Key, StoredTensor]] = []
    unknown = []
    for tensor in read_tensors(path):
        key = split_key(tensor.name)
        if key is None:
            unknown.append(tensor.name)
        else:
            keys.append((key, tensor))
    _refuse_unknown(path, unknown)
    if not keys:
        raise CheckpointError(f"{path}: not a LoRA: it is empty")
    modules = _modules(path, keys)
    _apply_settings(read_settings(path), modules.values())
    return LoraFile(path, list(modules.values()))


def low_rank_product(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """up · down, or up · mid · down.

    Args:
        tensors: float32; "down" [r, I] or [r, I, k, k]; "up" [O, r] or [O, r, 1, 1]; optionally
            "mid" [r, r] or [r, r, k, k], and then down is [r, I] or [r, I, 1, 1].

    Returns:
        [O, I·k·k]; with "mid" [O, I] or [O, I, k, k], by its axes.
    """
    up, down = (tensors[role].flatten(1) for role in ("up", "down"))
    if "mid" not in tensors:
        return up @ down
    return torch.einsum("or,rs...,si->oi...", up, tensors["mid"], down)


def _beside_colon(path: Path) -> str:
    """A hint for strengths that are none."""
    start, colon, end = str(path).partition(":")
    if not colon or not Path(start).is_file():
        return ""
    return f"; {start} is one, but {end!r} is not a strength or MODEL:CLIP, two numbers"


def _file(path: Path) -> Path:
    """The file of a LoRA that is given as a file or as a folder."""
    refuse_pickle(path)
    if path.is_dir():
        for name in _FOLDER_FILES:
            if (path / name).is_file():
                return path / name
        for each in sorted(path.iterdir()):
            refuse_pickle(each)
        raise CheckpointError(f"{path}: the folder has no {' and no '.join(_FOLDER_FILES)}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such LoRA file{_beside_colon(path)}")
    return path


def _refuse_unknown(path: Path, names: Sequence[str]) -> None:
    """
    Raises:
        CheckpointError: there are such names; it has their modules and kinds, if these are known.
    """
    if not names:
        return
    found = [f"{kind[1]} of {kind[0]}" for name in names if (kind := other_kind(name))]
    if found:
        raise CheckpointError(
            f"{path}: only LoRA can be folded in, not {first_names(list(dict.fromkeys(found)))}"
        )
    raise CheckpointError(f"{path}: not a LoRA of a known layout: tensors {first_names(names)}")


def _modules(path: Path, keys: Iterable[tuple[Key, StoredTensor]]) -> dict[str, LoraModule]:
    modules: dict[str, LoraModule] = {}
    for key, tensor in keys:
        module = modules.setdefault(key.module, LoraModule(key))
        if key.role in module.tensors or (key.role == "alpha" and module.alpha is not None):
            raise CheckpointError(f"{path}: {key.module}: two tensors of one role ({tensor.name})")
        value = tensor.read()
        if key.role != "alpha":
            module.tensors[key.role] = tensor
        elif value.numel() == 1:
            module.alpha = float(value)
        else:
            raise CheckpointError(
                f"{path}: {tensor.name} has shape {list(tensor.shape)}; one number is expected"
            )
    for module in modules.values():
        matrices = {"up", "down", "mid"} & module.tensors.keys()
        if (matrices or not module.tensors) and not matrices >= {"up", "down"}:
            raise CheckpointError(
                f"{path}: {module.key.module} has not both, an up and a down matrix"
            )
        if not matrices and module.alpha is not None:
            raise CheckpointError(f"{path}: {module.key.module} has an alpha, but no matrices")
    return modules


def _apply_settings(settings: Settings, modules: Iterable[LoraModule]) -> None:
    for module in modules:
        if "up" not in module.tensors:
            continue
        part = module.key.part
        settings.check(part)
        if module.alpha is None:
            module.alpha = settings.alpha(part, module.key.name)
            module.rank_stabilised = settings.rank_stabilised(part)
