"""Reads a checkpoint in diffusers' folder layout: configurations, weights, vocabulary.

Only safetensors weights are read. A pickle (.bin, .ckpt, .pt) can run any code when it is
loaded, so one is refused, not converted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engines.errors import CheckpointError

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_PICKLE_REASON = (
    "pickle files can run any code when they are loaded and are refused; "
    "convert it to safetensors (diffusers: save_pretrained(..., safe_serialization=True))"
)
_WEIGHT_STEMS = ("diffusion_pytorch_model", "model")


@dataclass(frozen=True)
class Checkpoint:
    """A diffusers folder: one sub-folder ("part") per network, tokenizer and scheduler."""

    root: Path

    def path(self, relative: str) -> Path:
        """The path of a file that must be there.

        Raises:
            CheckpointError: it is missing; the message names it.
        """
        path = self.root / relative
        if not path.is_file():
            raise CheckpointError(f"{self.root}: {relative} is missing")
        return path

    def has(self, part: str) -> bool:
        """Whether the checkpoint has that sub-folder."""
        return (self.root / part).is_dir()

    def json(self, relative: str) -> dict[str, Any]:
        """A JSON object of the checkpoint, e.g. ``unet/config.json``.

        Raises:
            CheckpointError: the file is missing or is not a JSON object.
        """
        path = self.path(relative)
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{path}: a JSON object is expected")
        return value

    def weights(self, part: str) -> str:
        """The safetensors file of a part, relative to the root; full precision before fp16.

        Raises:
            CheckpointError: there is none, or only a pickle.
        """
        names = [
            f"{stem}{variant}.safetensors" for variant in ("", ".fp16") for stem in _WEIGHT_STEMS
        ]
        for name in names:
            if (self.root / part / name).is_file():
                return f"{part}/{name}"
        for path in sorted((self.root / part).glob("*")):
            if path.suffix in PICKLE_SUFFIXES:
                raise CheckpointError(f"{path}: {_PICKLE_REASON}")
        raise CheckpointError(
            f"{self.root}: {part} has no weights; one of {', '.join(names)} is expected"
        )


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a diffusers folder.

    Raises:
        CheckpointError: nothing is there, or it is a single file.
    """
    if path.suffix in PICKLE_SUFFIXES and path.is_file():
        raise CheckpointError(f"{path}: {_PICKLE_REASON}")
    if path.is_file():
        raise CheckpointError(
            f"{path}: a single file cannot be read; give the checkpoint as a diffusers folder"
        )
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint folder")
    return Checkpoint(path)
