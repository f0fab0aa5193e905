"""Puts a finished build in the place of an older one, or leaves the older one alone.

A build is made in ``DIR/.NAME.building``, a folder beside the models, so that each model comes
into place by one rename. The descriptor is taken away before the first model changes and comes
back last: whoever looks in between sees a pipeline without a descriptor, that is an unfinished
one, never a mixture.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from build_engines.errors import BuildError


@contextmanager
def staging(repository: Path, name: str) -> Iterator[Path]:
    """An empty folder to build in; removed at the end, and so is one that a killed build left.

    Raises:
        BuildError: another build of the same pipeline is running.
    """
    folder = repository / f".{name}.building"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(descriptor, folder):
            raise BuildError(f"{repository}: pipeline {name!r} is being built by another process")
        _empty(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def publish(staged: Path, repository: Path, models: Sequence[str], descriptor: str) -> None:
    """Renames each model folder and then the descriptor file from ``staged`` into
    ``repository``; if that fails half-way, what was there before is put back.

    Args:
        staged: a folder on the repository's file system, with the models and the descriptor.
        models: names of the model folders, those of an older build that go away included.
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


def write_flushed(path: Path, text: str) -> None:
    """Writes a text file and waits until it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Waits until the folder's renames are on the disk, so that they keep their order."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> bool:
    """Locks the opened folder; false if somebody else has it, or just removed it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat())


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
