"""PEFT's settings of a LoRA: the alpha of its modules, and what changes the formula.

diffusers writes them into the file's metadata, a name per network (``unet.lora_alpha``) or, for one
network alone, without it; PEFT into ``adapter_config.json`` beside ``adapter_model.safetensors``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from build_engines.checkpoint import read_metadata
from build_engines.errors import CheckpointError
from build_engines.json_objects import parse_object, read_text

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_METADATA = "lora_adapter_metadata"
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations after which the adapter belongs to weights that are not the checkpoint's."""


@dataclass(frozen=True)
class Settings:
    """The settings of one file; empty if there are none."""

    where: str = ""
    """Where they are, for messages."""
    values: Mapping[str, Any] = field(default_factory=dict)

    def check(self, part: str | None) -> None:
        """
        Raises:
            CheckpointError: by the settings it is not a plain LoRA.
        """
        kind = str(self._get(part, "peft_type", "LORA")).rpartition(".")[2]
        if kind.upper() != "LORA":
            raise CheckpointError(f"{self.where}: peft_type {kind}; only LoRA can be folded in")
        if self._flag(part, "use_dora"):
            raise CheckpointError(f"{self.where}: a DoRA (use_dora); only LoRA can be folded in")
        start = self._get(part, "init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(_CHANGED_BASE):
            raise CheckpointError(
                f"{self.where}: init_lora_weights {start!r}: it belongs to weights that its "
                "initialisation has changed; let PEFT convert it to a LoRA of the checkpoint's"
            )

    def alpha(self, part: str | None, module: str) -> float | None:
        """A module's alpha; None: none is given.

        Raises:
            CheckpointError: it is no finite number, or its pattern is a regular expression.
        """
        alpha = self._get(part, "lora_alpha")
        patterns = self._get(part, "alpha_pattern", {})
        if not isinstance(patterns, dict):
            raise CheckpointError(f"{self.where}: alpha_pattern is not a JSON object")
        for pattern, value in patterns.items():
            if self._names(pattern, module):
                alpha = value
                break
        if alpha is None:
            return None
        is_number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
        try:
            number = float(alpha) if is_number else math.nan
        except OverflowError:
            number = math.nan
        if not math.isfinite(number):
            raise CheckpointError(
                f"{self.where}: alpha {alpha!r:.80} of {module}; a finite number is expected"
            )
        return number

    def rank_stabilised(self, part: str | None) -> bool:
        """Whether alpha is divided by the root of the rank, arXiv 2312.03732.

        Raises:
            CheckpointError: it is neither true nor false.
        """
        return self._flag(part, "use_rslora")

    def _flag(self, part: str | None, name: str) -> bool:
        value = self._get(part, name, False)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.where}: {name} {value!r:.80}; true or false is expected")
        return value

    def _get(self, part: str | None, name: str, default: Any = None) -> Any:
        for key in (f"{part}.{name}", name):
            if (value := self.values.get(key)) is not None:
                return value
        return default

    def _names(self, pattern: str, module: str) -> bool:
        """Whether a key of PEFT's patterns means a module: its whole name, or the end of it."""
        plain = pattern.removeprefix("^").removesuffix("$").replace(r"\.", ".")
        if not re.fullmatch(r"[\w.]+", plain):
            raise CheckpointError(
                f"{self.where}: alpha_pattern {pattern!r}: a regular expression; names of modules "
                "and their ends are read"
            )
        return module == plain or (not pattern.startswith("^") and module.endswith(f".{plain}"))


def settings_file(path: Path) -> Path | None:
    """PEFT's file of settings for a LoRA, if it has one."""
    beside = path.with_name(ADAPTER_CONFIG)
    return beside if path.name == ADAPTER_FILE and beside.is_file() else None


def read_settings(path: Path) -> Settings:
    """The settings in a LoRA's metadata, or beside the file.

    Raises:
        CheckpointError: they cannot be read.
    """
    if (text := read_metadata(path).get(_METADATA)) is not None:
        where = f"{path}: {_METADATA}"
        return Settings(where, parse_object(text, where))
    if (beside := settings_file(path)) is None:
        return Settings()
    return Settings(str(beside), parse_object(read_text(beside), str(beside)))
