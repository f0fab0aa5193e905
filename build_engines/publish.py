"""Replaces an older build by a finished one, or leaves the older one unchanged.

A build is made in ``DIR/.NAME.building``, a folder beside the models, so that each model is
published by one rename. The descriptor is removed before the first model changes and written last:
a pipeline without a descriptor is unfinished, so a mixture is never served.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_SUFFIX = ".building"


@contextmanager
def staging(repository: Path, name: str) -> Iterator[Path]:
    """An empty folder to build in, removed at the end. Files of a killed build are removed first.
    Waits while another process builds the same pipeline."""
    folder = repository / f".{name}{_SUFFIX}"
    descriptor = _lock(folder)
    try:
        _empty(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def published(path: Path) -> Path:
    """The published path of a path below a :func:`staging` folder."""
    folder = next(each for each in path.parents if each.name.endswith(_SUFFIX))
    return folder.parent / path.relative_to(folder)


def publish(staged: Path, repository: Path, models: Sequence[str], descriptor: str) -> None:
    """Renames each model folder and then the descriptor file from ``staged`` into ``repository``;
    on a failure, the older build is restored.

    Args:
        staged: a folder on the repository's file system, with the models and the descriptor.
        models: names of the model folders, including those of an older build to be removed.
        descriptor: name of the descriptor file.
    """
    old = staged / "replaced"
    old.mkdir()
    moves: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        if source.exists():
            moves.append((source, target))
            source.rename(target)

    try:
        move(repository / descriptor, old / descriptor)
        for model in models:
            move(repository / model, old / model)
            move(staged / model, repository / model)
        _flush(repository)
        move(staged / descriptor, repository / descriptor)
        _flush(repository)
    except BaseException:
        for source, target in reversed(moves):
            if target.exists():
                target.rename(source)
        raise


def _flush(folder: Path) -> None:
    """Flushes the folder's renames to the disk, so that they keep their order."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    """Creates and locks the folder; returns its file descriptor, whose closing unlocks it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: waiting for another build of the same pipeline", folder.parent)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # The former owner of the lock may have removed the folder; then it is created again.
        if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
