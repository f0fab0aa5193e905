"""Reads a checkpoint: configurations, tensors and vocabulary, by the names of diffusers' folders.

Only safetensors weights are read. A pickle (.bin, .ckpt, .pt) can run any code when it is loaded,
so it is refused.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from build_engines.errors import CheckpointError

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_PICKLE_REASON = (
    "pickle files can run any code when they are loaded and are refused; "
    "convert it to safetensors (diffusers: save_pretrained(..., safe_serialization=True))"
)
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
_MOST_TENSORS = 20_000
_MOST_TEXT_BYTES = 64 << 20
_DTYPES = (
    *("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"),
    *("I64", "I32", "I16", "I8", "U8", "BOOL"),
)
_WEIGHT_STEMS = ("diffusion_pytorch_model", "model")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint that is read at its use."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


class Checkpoint(ABC):
    """A checkpoint as a build reads it. In every layout, parts, files and tensors have the names
    of a diffusers folder: one part per network, tokenizer and scheduler."""

    root: Path
    """Its name in messages."""

    @abstractmethod
    def has(self, part: str) -> bool:
        """Whether the checkpoint has a part."""

    @abstractmethod
    def text(self, relative: str) -> str:
        """A text file of the checkpoint, e.g. ``tokenizer/merges.txt``.

        Raises:
            CheckpointError: it is missing or cannot be read.
        """

    @abstractmethod
    def json(self, relative: str) -> dict[str, Any]:
        """A JSON object of the checkpoint, e.g. ``unet/config.json``.

        Raises:
            CheckpointError: the file is missing or is not a JSON object.
        """

    @abstractmethod
    def tensors(self, part: str) -> Iterator[StoredTensor]:
        """The tensors of a part, in the file's order.

        Raises:
            CheckpointError: there are none, only a pickle, or the file is broken.
        """

    def embeddings(self, part: str) -> dict[str, tuple[int, ...]]:
        """Textual inversions added to a text encoder: name → ids of their tokens."""
        return {}

    @abstractmethod
    def source_files(self, parts: Iterable[str], tokenizers: Iterable[str]) -> dict[str, Path]:
        """The files of these networks' parts, these tokenizers and the noise schedule, by names
        that do not depend on the checkpoint's location.

        Raises:
            CheckpointError: one is missing, or there is only a pickle.
        """


def read_tensors(path: Path) -> Iterator[StoredTensor]:
    """The tensors of a safetensors file, which stays open while they exist.

    The library checks the header: its length and JSON, that the tensors fill the file without gaps
    or overlaps, and that the size of each fits its shape and data type.

    Raises:
        CheckpointError: the file is broken, or a tensor's data type is not supported.
    """
    try:
        # Not closed: tensors are read later. Not mapped: pages count as this process's memory.
        file: Any = safe_open(path, framework="pt", backend="pread")
        names = list(file.keys())
        if len(names) > _MOST_TENSORS:
            raise CheckpointError(f"{path}: {len(names)} tensors; at most {_MOST_TENSORS}")
        for name in names:
            part = file.get_slice(name)
            if part.get_dtype() not in _DTYPES:
                raise CheckpointError(
                    f"{path}: {name}: data type {part.get_dtype()}; known are {', '.join(_DTYPES)}"
                )
            yield StoredTensor(name, tuple(part.get_shape()), partial(file.get_tensor, name))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        CheckpointError: the file is broken.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error


def refuse_pickle(path: Path) -> None:
    """
    Raises:
        CheckpointError: the file is a pickle, by its name.
    """
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(f"{path}: {_PICKLE_REASON}")


@dataclass(frozen=True)
class DiffusersFolder(Checkpoint):
    """A diffusers folder: one sub-folder ("part") per network, tokenizer and scheduler."""

    root: Path

    def path(self, relative: str) -> Path:
        """The path of an existing file.

        Raises:
            CheckpointError: it is missing.
        """
        path = self.root / relative
        if not path.is_file():
            raise CheckpointError(f"{self.root}: {relative} is missing")
        return path

    def has(self, part: str) -> bool:
        return (self.root / part).is_dir()

    def text(self, relative: str) -> str:
        path = self.path(relative)
        if path.stat().st_size > _MOST_TEXT_BYTES:
            raise CheckpointError(f"{path}: longer than {_MOST_TEXT_BYTES} bytes")
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: not readable as text: {error}") from error

    def json(self, relative: str) -> dict[str, Any]:
        text = self.text(relative)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{self.root}/{relative}: not readable as JSON: {error}"
            ) from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.root}/{relative}: a JSON object is expected")
        return value

    def tensors(self, part: str) -> Iterator[StoredTensor]:
        return read_tensors(self.path(self.weights(part)))

    def source_files(self, parts: Iterable[str], tokenizers: Iterable[str]) -> dict[str, Path]:
        files = [SCHEDULER_CONFIG]
        for part in parts:
            files += [f"{part}/config.json", self.weights(part)]
        files += [f"{folder}/{file}" for folder in tokenizers for file in TOKENIZER_FILES]
        return {file: self.path(file) for file in sorted(files)}

    def weights(self, part: str) -> str:
        """The safetensors file of a part, relative to the root; full precision is preferred to
        fp16.

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
            refuse_pickle(path)
        raise CheckpointError(
            f"{self.root}: {part} has no weights; one of {', '.join(names)} is expected"
        )
