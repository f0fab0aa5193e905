"""The supported formats of checkpoints."""

from __future__ import annotations

from pathlib import Path

from build_engines.checkpoint import Checkpoint, DiffusersFolder, refuse_pickle
from build_engines.errors import CheckpointError
from build_engines.single_file import open_single_file


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a diffusers folder, or a single safetensors file in a published layout.

    Raises:
        CheckpointError: it does not exist, is a pickle, or is of no known family.
    """
    if path.is_file():
        refuse_pickle(path)
        return open_single_file(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint, neither a folder nor a file")
    return DiffusersFolder(path)
