"""The files of a pipeline's models, and their comparison with the descriptor.

The descriptor pins every file by its SHA-256. Additional files are refused like changed ones:
Triton loads every folder, and the stub of a Python-based backend imports from the model's folder
first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipelines.descriptor import PipelineDescriptor, PipelineError, load_all

log = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 20
_THREADS = 4
_SHOWN = 3

_Stamp = tuple[int, ...]
_hashes: dict[_Stamp, str] = {}
"""Hashes computed by this process, so that a restart of the server does not hash again."""


def write_flushed(path: Path, text: str) -> None:
    """Writes a text file and waits until it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sha256(path: Path, advance: Callable[[int], object] = lambda count: None) -> str:
    """The file's SHA-256 in hex; calls ``advance`` with the length of every block in bytes."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            advance(count)
    return digest.hexdigest()


def model_files(folder: Path, models: Iterable[str]) -> dict[str, Path]:
    """All files of these models by their paths relative to the folder, also those in linked
    folders."""
    found = {}
    for model in models:
        for path in sorted((folder / model).rglob("*")):
            if path.is_symlink() or not path.is_dir():
                found[path.relative_to(folder).as_posix()] = path
    return found


def is_model(name: str) -> bool:
    """Whether a folder of this name in a repository is a model: running builds and file systems
    use hidden folders."""
    return not name.startswith(".") and name != "lost+found"


def check_files(repositories: Iterable[Path]) -> None:
    """Compares all files of the repositories' models with the descriptors.

    Raises:
        PipelineError: lists changed, missing and additional files, and the remedy.
    """
    begun_s = time.monotonic()
    folders = list(repositories)
    pipelines = load_all(folders)
    with ThreadPoolExecutor(_THREADS) as threads:
        for name, (descriptor, folder) in pipelines.items():
            wrong = _compare(descriptor, folder, threads)
            if wrong:
                raise PipelineError(_advice(name, folder, wrong))
    for folder in folders:
        _check_owners(folder, [each for each, place in pipelines.values() if place == folder])
    log.info("files of %d pipelines compared in %.1f s", len(pipelines), time.monotonic() - begun_s)


def _compare(
    descriptor: PipelineDescriptor, folder: Path, threads: ThreadPoolExecutor
) -> list[str]:
    pinned: dict[str, str] = {}
    for network in descriptor.all_networks:
        pinned.update(network.files)
    there = model_files(folder, descriptor.models)
    wrong = [f"{name} is missing" for name in pinned.keys() - there.keys()]
    wrong += [f"{name} is no part of it" for name in there.keys() - pinned.keys()]
    both = sorted(pinned.keys() & there.keys())
    hashes = threads.map(_known_sha256, (there[name] for name in both))
    changed = [name for name, found in zip(both, hashes, strict=True) if found != pinned[name]]
    return sorted(wrong) + [f"{name} has changed" for name in changed]


def _known_sha256(path: Path) -> str | None:
    """None if it cannot be read."""
    try:
        stamp = _stamp(path)
        if stamp not in _hashes:
            found = sha256(path)
            if _stamp(path) != stamp:  # being written
                return None
            _hashes[stamp] = found
        return _hashes[stamp]
    except OSError:
        return None


def _stamp(path: Path) -> _Stamp:
    """A value that changes with every write: only root can set the time of change (ctime)."""
    status: os.stat_result = path.stat()
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _advice(name: str, folder: Path, wrong: list[str]) -> str:
    shown = "; ".join(wrong[:_SHOWN]) + ("; …" if len(wrong) > _SHOWN else "")
    return (
        f"pipeline {name!r} in {folder} is not as it was built: {shown}. Build it again: "
        f"python -m build_engines CHECKPOINT --name {name} --repository {folder} "
        "(or start with --no-verify)"
    )


def _check_owners(folder: Path, descriptors: Iterable[PipelineDescriptor]) -> None:
    known = {model for descriptor in descriptors for model in descriptor.models}
    strangers = sorted(path.name for path in folder.iterdir() if is_model(path.name))
    strangers = [name for name in strangers if name not in known and (folder / name).is_dir()]
    if strangers:
        raise PipelineError(
            f"{folder}: Triton would load what belongs to no pipeline: "
            f"{', '.join(strangers[:_SHOWN])}. Remove it, or build its pipeline again "
            "(or start with --no-verify)"
        )
