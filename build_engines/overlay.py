"""A checkpoint that changes parts of another one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from build_engines.checkpoint import Checkpoint, StoredTensor
from build_engines.options import PredictionType
from build_engines.vocabulary import Vocabulary
from pipelines.descriptor import NoiseSchedule


class Overlay(Checkpoint):
    """Forwards to another checkpoint; a subclass changes parts of it."""

    def __init__(self, base: Checkpoint) -> None:
        self.base = base
        self.root = base.root

    def has(self, part: str) -> bool:
        return self.base.has(part)

    def vocabulary(self, tokenizer: str) -> Vocabulary:
        return self.base.vocabulary(tokenizer)

    def schedule(self) -> NoiseSchedule:
        return self.base.schedule()

    def prediction(self) -> PredictionType | None:
        return self.base.prediction()

    def json(self, relative: str) -> dict[str, Any]:
        return self.base.json(relative)

    def tensors(self, part: str) -> Iterator[StoredTensor]:
        return self.base.tensors(part)

    def embeddings(self, part: str) -> dict[str, tuple[int, ...]]:
        return self.base.embeddings(part)

    def source_files(self, parts: Iterable[str], tokenizers: Iterable[str]) -> dict[str, Path]:
        return self.base.source_files(parts, tokenizers)
