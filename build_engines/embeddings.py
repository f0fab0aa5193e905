"""Adds textual inversions (arXiv 2208.01618), learned vectors for a word, to a checkpoint. Each
vector becomes a row at the end of the text encoder's token table; its id is the row's index.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from build_engines.checkpoint import Checkpoint, StoredTensor, read_tensors, refuse_pickle
from build_engines.errors import CheckpointError
from build_engines.overlay import Overlay

log = logging.getLogger(__name__)

ENCODER_KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
"""Text encoder → the key of its vectors in a file for several encoders."""
_TOKEN_TABLE = "embeddings.token_embedding.weight"


@dataclass(frozen=True)
class _Rows:
    """The rows added to one encoder's token table."""

    first: int
    """Rows of the original table."""
    vectors: Mapping[str, StoredTensor]
    """Vectors [n, D] or [D] by the inversion's name."""

    @property
    def ids(self) -> dict[str, tuple[int, ...]]:
        ids, start = {}, self.first
        for name, vectors in self.vectors.items():
            end = start + _count(vectors)
            ids[name], start = tuple(range(start, end)), end
        return ids

    @property
    def end(self) -> int:
        return self.first + sum(map(_count, self.vectors.values()))

    def append_to(self, table: StoredTensor) -> torch.Tensor:
        """The table [V, D] with the rows appended; float32."""
        width = table.shape[1]
        rows = [tensor.read().reshape(-1, width) for tensor in self.vectors.values()]
        return torch.cat([part.to(torch.float32) for part in (table.read(), *rows)])


class WithEmbeddings(Overlay):
    """A checkpoint whose text encoders have further tokens."""

    def __init__(self, base: Checkpoint, embeddings: Mapping[str, Path]) -> None:
        """
        Args:
            base: the checkpoint.
            embeddings: name in prompts → a safetensors file.

        Raises:
            CheckpointError: a file cannot be read, or does not fit the text encoders.
        """
        super().__init__(base)
        self._files = {f"embeddings/{name}/{path.name}": path for name, path in embeddings.items()}
        encoders = [part for part in ENCODER_KEYS if base.has(part)]
        configs = {part: base.json(f"{part}/config.json") for part in encoders}
        vectors: dict[str, dict[str, StoredTensor]] = {part: {} for part in encoders}
        for name, path in embeddings.items():
            found = _read(path, encoders)
            for part, tensor in found.items():
                _check(path, tensor, configs[part]["hidden_size"])
                vectors[part][name] = tensor
            if len(counts := {_count(tensor) for tensor in found.values()}) > 1:
                raise CheckpointError(
                    f"{path}: as many vectors for each text encoder are expected; "
                    f"found {' and '.join(map(str, sorted(counts)))}"
                )
        self._rows = {part: _Rows(configs[part]["vocab_size"], vectors[part]) for part in encoders}

    def json(self, relative: str) -> dict[str, Any]:
        value = self.base.json(relative)
        part, _, file = relative.partition("/")
        if part in self._rows and file == "config.json":
            value = {**value, "vocab_size": self._rows[part].end}
        return value

    def tensors(self, part: str) -> Iterator[StoredTensor]:
        rows = self._rows.get(part)
        for tensor in self.base.tensors(part):
            if rows and tensor.name.removeprefix("text_model.") == _TOKEN_TABLE:
                if tensor.shape[0] != rows.first:
                    raise CheckpointError(
                        f"{part}: {tensor.name} has {tensor.shape[0]} rows; its config says "
                        f"{rows.first}"
                    )
                shape = (rows.end, *tensor.shape[1:])
                yield replace(tensor, shape=shape, read=partial(rows.append_to, tensor))
            else:
                yield tensor

    def embeddings(self, part: str) -> dict[str, tuple[int, ...]]:
        return self._rows[part].ids

    def source_files(self, parts: Iterable[str], tokenizers: Iterable[str]) -> dict[str, Path]:
        return {**self.base.source_files(parts, tokenizers), **self._files}


def _read(path: Path, encoders: list[str]) -> dict[str, StoredTensor]:
    """The vectors for each encoder. A file for one encoder has one tensor of any name:
    ``emb_params`` or, from diffusers, the token.

    Raises:
        CheckpointError: an encoder has no vectors.
    """
    refuse_pickle(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such textual inversion")
    found = {tensor.name: tensor for tensor in read_tensors(path)}
    by_key = {part: found[key] for part, key in ENCODER_KEYS.items() if key in found}
    if not by_key and len(found) == 1 and len(encoders) == 1:
        return {encoders[0]: next(iter(found.values()))}
    missing = [ENCODER_KEYS[part] for part in encoders if part not in by_key]
    if missing:
        expected = " and ".join(ENCODER_KEYS[part] for part in encoders)
        if len(encoders) == 1:
            expected += ", or one tensor (emb_params, or named as the token)"
        raise CheckpointError(
            f"{path}: a textual inversion with {expected} is expected; "
            f"found {', '.join(sorted(found)[:3]) or 'nothing'}"
        )
    for part in by_key.keys() - set(encoders):
        log.info("%s: %s left out: no %s", path.name, ENCODER_KEYS[part], part)
    return {part: by_key[part] for part in encoders}


def _check(path: Path, tensor: StoredTensor, width: int) -> None:
    shape = tensor.shape
    if len(shape) not in (1, 2) or shape[-1] != width or 0 in shape:
        raise CheckpointError(
            f"{path}: {tensor.name} has shape {list(shape)}; vectors {width} wide are what the "
            "text encoder takes"
        )


def _count(vectors: StoredTensor) -> int:
    return vectors.shape[0] if len(vectors.shape) == 2 else 1
