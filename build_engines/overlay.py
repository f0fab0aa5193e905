"""A checkpoint that changes parts of another one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from build_engines.checkpoint import Checkpoint, StoredTensor


class Overlay(Checkpoint):
    """Forwards to another checkpoint; a subclass changes parts of it."""

    def __init__(self, base: Checkpoint) -> None:
        self.base = base
        self.root = base.root

    def has(self, part: str) -> bool:
        return self.base.has(part)

    def text(self, relative: str) -> str:
        return self.base.text(relative)

    def json(self, relative: str) -> dict[str, Any]:
        return self.base.json(relative)

    def tensors(self, part: str) -> Iterator[StoredTensor]:
        return self.base.tensors(part)

    def embeddings(self, part: str) -> dict[str, tuple[int, ...]]:
        return self.base.embeddings(part)

    def source_files(self, parts: Iterable[str], tokenizers: Iterable[str]) -> dict[str, Path]:
        return self.base.source_files(parts, tokenizers)
