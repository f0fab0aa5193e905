"""Reads a checkpoint: configurations, tensors and vocabulary, by the names of diffusers' folders.

Only safetensors weights are read. A pickle (.bin, .ckpt, .pt) can run any code when it is loaded,
so it is refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from build_engines.errors import CheckpointError, errors_of
from build_engines.json_objects import parse_object, read_text
from build_engines.options import PredictionType
from build_engines.schedule import SCHEDULER_CONFIG, read_prediction, read_schedule
from build_engines.vocabulary import Vocabulary, padding_token, parse_merges, parse_tokenizer
from build_engines.weight_files import EXPECTED, choose_weights, is_index, shard_names
from pipelines.descriptor import NoiseSchedule

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_PICKLE_REASON = (
    "pickle files can run any code when they are loaded and are refused; "
    "convert it to safetensors (diffusers: save_pretrained(..., safe_serialization=True))"
)
_INDEX = "model_index.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_TOKENIZER_FILES = ("vocab.json", "merges.txt")
_TOKENIZER_FILE = "tokenizer.json"
_MOST_TENSORS = 20_000
_DTYPES = (
    *("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"),
    *("I64", "I32", "I16", "I8", "U8", "BOOL"),
)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint that is read at its use."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]
    """Raises CheckpointError if it has values that are NaN or infinite."""


class Checkpoint(ABC):
    """A checkpoint as a build reads it. In every layout, parts, files and tensors have the names
    of a diffusers folder: one part per network, tokenizer and scheduler."""

    root: Path
    """Its name in messages."""

    def kind(self) -> str | None:
        """What the checkpoint says that it is, for messages; None if it says nothing."""
        return None

    @abstractmethod
    def has(self, part: str) -> bool:
        """Whether the checkpoint has a part."""

    @abstractmethod
    def vocabulary(self, tokenizer: str) -> Vocabulary:
        """The vocabulary of a tokenizer's part, e.g. ``tokenizer_2``.

        Raises:
            CheckpointError: a file is missing, cannot be read, or is no CLIP vocabulary.
        """

    @abstractmethod
    def schedule(self) -> NoiseSchedule:
        """The noise schedule of the UNet's training.

        Raises:
            CheckpointError: the checkpoint declares one that cannot be sampled.
        """

    @abstractmethod
    def prediction(self) -> PredictionType | None:
        """What the UNet predicts; None if the checkpoint does not declare it.

        Raises:
            CheckpointError: it declares something unknown, or contradicts itself.
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
            shape = tuple(part.get_shape())
            yield StoredTensor(name, shape, partial(_read_finite, file, name, path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error


def _read_finite(file: Any, name: str, path: Path) -> torch.Tensor:
    """A tensor of an open file.

    Raises:
        CheckpointError: it has values that are NaN or infinite, in float32.
    """
    value: torch.Tensor = file.get_tensor(name)
    if not value.is_floating_point() or not value.numel():
        return value
    # The ends show it, NaN too, in a tenth of isfinite's time; torch has none of float8.
    ends = (value if value.itemsize > 1 else value.to(torch.float16)).aminmax()
    if not all(bool(end.to(torch.float32).isfinite()) for end in ends):
        raise CheckpointError(f"{path}: {name} has values that are NaN or infinite")
    return value


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
        """A text file of the checkpoint, e.g. ``tokenizer/merges.txt``.

        Raises:
            CheckpointError: it is missing or cannot be read.
        """
        return read_text(self.path(relative))

    def json(self, relative: str) -> dict[str, Any]:
        return parse_object(self.text(relative), f"{self.root}/{relative}")

    def vocabulary(self, tokenizer: str) -> Vocabulary:
        *files, config = (f"{tokenizer}/{file}" for file in self._tokenizer_files(tokenizer))
        padding = padding_token(self.json(config))
        if len(files) == 1:
            return parse_tokenizer(self.json(files[0]), padding, files[0])
        vocab, merges = files
        source = f"{self.root}/{merges}"
        return Vocabulary(
            self.json(vocab), parse_merges(self.text(merges), source), padding, source
        )

    def kind(self) -> str | None:
        try:
            name = self.json(_INDEX).get("_class_name")
        except CheckpointError:
            return None
        return name if isinstance(name, str) else None

    def schedule(self) -> NoiseSchedule:
        config = self.json(SCHEDULER_CONFIG)
        with errors_of(self.root):
            return read_schedule(config)

    def prediction(self) -> PredictionType | None:
        config = self.json(SCHEDULER_CONFIG)
        with errors_of(self.root):
            return read_prediction(config)

    def tensors(self, part: str) -> Iterator[StoredTensor]:
        first, *shards = self.weights(part)
        if not shards:
            yield from read_tensors(self.path(first))
            return
        left = shard_names(self.json(first), f"{self.root}/{first}")
        for shard in shards:
            for tensor in read_tensors(self.path(shard)):
                if left.get(tensor.name) == Path(shard).name:
                    del left[tensor.name]
                    yield tensor
        for name, shard in left.items():
            raise CheckpointError(f"{self.root}: {part}/{shard} lacks {name}, which {first} names")

    def source_files(self, parts: Iterable[str], tokenizers: Iterable[str]) -> dict[str, Path]:
        files = [SCHEDULER_CONFIG]
        for part in parts:
            files += [f"{part}/config.json", *self.weights(part)]
        for folder in tokenizers:
            files += [f"{folder}/{file}" for file in self._tokenizer_files(folder)]
        return {file: self.path(file) for file in sorted(files)}

    def _tokenizer_files(self, tokenizer: str) -> tuple[str, ...]:
        """The names of a tokenizer's files, its configuration last."""
        folder = self.root / tokenizer
        alone = (folder / _TOKENIZER_FILE).is_file()
        if alone and not all((folder / file).is_file() for file in _TOKENIZER_FILES):
            return _TOKENIZER_FILE, _TOKENIZER_CONFIG
        return *_TOKENIZER_FILES, _TOKENIZER_CONFIG

    def weights(self, part: str) -> tuple[str, ...]:
        """The files of a part's weights, relative to the root: one safetensors file, or an index
        and its shards.

        Raises:
            CheckpointError: there is none, only a pickle, or a shard is missing.
        """
        folder = self.root / part
        paths = sorted(folder.glob("*"))
        chosen = choose_weights((path.name for path in paths), f"{self.root}: {part}")
        if chosen is None:
            for path in paths:
                refuse_pickle(path)
            raise CheckpointError(f"{self.root}: {part} has no weights; expected: {EXPECTED}")
        first = f"{part}/{chosen}"
        if not is_index(chosen):
            return (first,)
        shards = dict.fromkeys(shard_names(self.json(first), f"{self.root}/{first}").values())
        for shard in shards:
            if not (folder / shard).is_file():
                raise CheckpointError(
                    f"{self.root}: {part}/{shard} is missing, a shard that {chosen} names"
                )
        return (first, *(f"{part}/{shard}" for shard in shards))
