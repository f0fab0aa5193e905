"""A copy of the small checkpoint and of its compiled pipeline, to be changed by a test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import CHECKPOINTS


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint folder that a test may change."""
    return Path(shutil.copytree(CHECKPOINTS / "sd15", tmp_path / "checkpoint"))


@pytest.fixture
def built(repository: Path, tmp_path: Path) -> Path:
    """A repository with the compiled pipeline ``sd15`` that a test may change."""
    target = tmp_path / "repository"
    target.mkdir()
    for path in repository.glob("sd15[_.]*"):
        if path.is_dir():
            shutil.copytree(path, target / path.name)
        else:
            shutil.copy2(path, target)
    return target


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, hidden ones too, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
