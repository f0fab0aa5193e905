"""Reads the JSON objects of checkpoints and LoRAs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from build_engines.errors import CheckpointError

_MOST_BYTES = 64 << 20


def read_text(path: Path) -> str:
    """A text file in UTF-8.

    Raises:
        CheckpointError: it cannot be read, or is longer than 64 MiB.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CheckpointError(f"{path}: longer than {_MOST_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as text: {error}") from error


def parse_object(text: str, where: str) -> dict[str, Any]:
    """A text's JSON object; ``where`` is its place in messages.

    Raises:
        CheckpointError: it is no JSON, or another value than an object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: a JSON object is expected")
    return value
