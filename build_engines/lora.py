"""Folds LoRAs into a checkpoint's weights as they are loaded:
W + strength · alpha/rank · up · down.

LoRA is low-rank adaptation, arXiv 2106.09685; for convolutions as in LoCon, with or without a
middle matrix.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from build_engines.checkpoint import Checkpoint, StoredTensor
from build_engines.errors import CheckpointError, first_names
from build_engines.lora_file import LoraFile, LoraModule, read_lora
from build_engines.options import LoraArgument, check_loras
from build_engines.overlay import Overlay
from build_engines.single_file.names import unet_module

log = logging.getLogger(__name__)

_PARTS = ("unet", "text_encoder", "text_encoder_2")
_PUBLISHED_BLOCK = re.compile(
    r"(input_blocks|output_blocks)_(\d+)_(\d+)_(.+)|(middle_block)_(\d)_(.+)"
)
_Tensors = dict[tuple[str, str], StoredTensor]
"""A part's tensors by the flattened name of their module and by "weight" or "bias"."""
_Matches = dict[tuple[str, str], tuple[LoraModule, str]]
"""The changed tensors, by part and name, each with the module that changes it, and "weight" or
"bias"."""


@dataclass(frozen=True)
class Change:
    """The change of one tensor by one LoRA."""

    file: Path
    module: LoraModule
    changed: str
    """"weight" or "bias"."""
    strength: float

    def apply(self, value: torch.Tensor) -> torch.Tensor:
        """The tensor with the change added; float32.

        Raises:
            CheckpointError: the change is beyond float32.
        """
        delta = self.module.delta(self.changed, self.strength, value.shape)
        if not bool(delta.isfinite().all()):
            raise CheckpointError(
                f"{self.file}: {self.module.key.module}: the change is beyond float32"
            )
        return value.to(torch.float32) + delta


class WithLoras(Overlay):
    """A checkpoint with LoRAs folded in."""

    def __init__(self, base: Checkpoint, loras: Sequence[LoraArgument]) -> None:
        """
        Args:
            base: the checkpoint.
            loras: safetensors files, or folders of PEFT or diffusers, each with its strength, or
                with one for the UNet and one for the text encoders.

        Raises:
            CheckpointError: a file cannot be read, has values that are not finite, or does not fit
                the checkpoint.
            BuildError: a strength is not finite.
        """
        super().__init__(base)
        self._files: dict[str, Path] = {}
        self._changes: dict[tuple[str, str], list[Change]] = defaultdict(list)
        targets = _Targets(base)
        for number, lora in enumerate(check_loras(loras)):
            file = read_lora(lora.path)
            weights, *others = file.sources
            self._files[f"loras/{number}/{weights.name}:{lora.strengths}"] = weights
            self._files |= {f"loras/{number}/{each.name}": each for each in others}
            for (part, tensor), (module, changed) in targets.match(file).items():
                if strength := lora.model if part == "unet" else lora.clip:
                    change = Change(file.path, module, changed, strength)
                    self._changes[part, tensor].append(change)

    def tensors(self, part: str) -> Iterator[StoredTensor]:
        for tensor in self.base.tensors(part):
            changes = self._changes.get((part, tensor.name))
            yield replace(tensor, read=partial(_changed, tensor, changes)) if changes else tensor

    def source_files(self, parts: Iterable[str], tokenizers: Iterable[str]) -> dict[str, Path]:
        return {**self.base.source_files(parts, tokenizers), **self._files}


def _changed(tensor: StoredTensor, changes: Sequence[Change]) -> torch.Tensor:
    value = tensor.read()
    for change in changes:
        value = change.apply(value)
    return value


class _Targets:
    """Finds the tensors of a checkpoint that LoRAs change."""

    def __init__(self, base: Checkpoint) -> None:
        self._base = base
        self._parts: dict[str, _Tensors] = {}

    def match(self, file: LoraFile) -> _Matches:
        """The tensors that the file changes.

        Raises:
            CheckpointError: the checkpoint lacks a module, or has it in another shape or in two
                parts; or nothing is changed.
        """
        matched: _Matches = {}
        unknown, misfits = [], []
        absent: Counter[str] = Counter()
        for module in file.modules:
            named = module.key.part
            if named is not None and not self._base.has(named):
                absent[named] += 1
                continue
            found = self._found(module)
            fitting = {part: targets for part, targets in found.items() if _fits(module, targets)}
            if not found:
                unknown.append(module.key.module)
            elif not fitting:
                misfits.append(_misfit(module, next(iter(found.values()))))
            else:
                _add(file.path, matched, module, fitting)
        _refuse(file.path, "has no modules", unknown)
        _refuse(file.path, "has other shapes:", misfits)
        if not matched:
            raise CheckpointError(
                f"{file.path}: changes nothing: the checkpoint has no {' and no '.join(absent)}"
            )
        for part, count in absent.items():
            log.info("%s: %d modules left out: there is no %s", file.path.name, count, part)
        return matched

    def _found(self, module: LoraModule) -> dict[str, dict[str, StoredTensor]]:
        """The parts that have all tensors that a module changes; these by "weight" or "bias"."""
        found = {}
        for part in [module.key.part] if module.key.part else filter(self._base.has, _PARTS):
            if part not in self._parts:
                self._parts[part] = _changeable(self._base, part)
            name = self._name(part, module.key.name.replace(".", "_"))
            tensors = {each: self._parts[part].get((name, each)) for each in module.changes}
            present = {each: tensor for each, tensor in tensors.items() if tensor}
            if len(present) == len(tensors):
                found[part] = present
        return found

    def _name(self, part: str, name: str) -> str:
        """A module's flattened name as :func:`_changeable` has it."""
        if part != "unet":
            return name.removeprefix("transformer_").removeprefix("text_model_")
        if match := _PUBLISHED_BLOCK.fullmatch(name):
            name = ".".join(filter(None, match.groups()))
        layers = self._base.json("unet/config.json")["layers_per_block"]
        return unet_module(name, layers).replace(".", "_")


def _add(
    path: Path,
    matched: _Matches,
    module: LoraModule,
    fitting: Mapping[str, Mapping[str, StoredTensor]],
) -> None:
    """Adds a module that fits at least one part.

    Raises:
        CheckpointError: it fits several, or another module of the file changes the same.
    """
    if len(fitting) > 1:
        raise CheckpointError(
            f"{path}: {module.key.module} is in {' and in '.join(fitting)}: its name needs the "
            "prefix of one"
        )
    ((part, targets),) = fitting.items()
    for changed, tensor in targets.items():
        if other := matched.get((part, tensor.name)):
            both = f"{other[0].key.module} and {module.key.module}"
            raise CheckpointError(f"{path}: {both} are one module")
        matched[part, tensor.name] = (module, changed)


def _changeable(base: Checkpoint, part: str) -> _Tensors:
    found = {}
    for tensor in base.tensors(part):
        module, _, kind = tensor.name.removeprefix("text_model.").rpartition(".")
        found[module.replace(".", "_"), kind] = tensor
    return found


def _fits(module: LoraModule, targets: dict[str, StoredTensor]) -> bool:
    return all(module.fits(changed, tensor.shape) for changed, tensor in targets.items())


def _misfit(module: LoraModule, targets: dict[str, StoredTensor]) -> str:
    shapes = {role: list(tensor.shape) for role, tensor in module.tensors.items()}
    expected = " and ".join(str(list(tensor.shape)) for tensor in targets.values())
    return f"{module.key.module} {shapes} for {expected}"


def _refuse(path: Path, reason: str, modules: Sequence[str]) -> None:
    if modules:
        raise CheckpointError(
            f"{path}: does not fit the checkpoint, which {reason} {first_names(modules)}"
        )
