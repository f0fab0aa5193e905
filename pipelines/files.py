"""The files of a pipeline's models, and whether they are still those that were built.

The descriptor pins every file by its SHA-256. A file more is as bad as a changed one: Triton loads
every folder, and the stub of a Python-based backend imports from the model's folder first.
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
"""What this process has hashed: a server that is started again starts at once."""


def write_flushed(path: Path, text: str) -> None:
    """Writes a text file and waits until it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sha256(path: Path, advance: Callable[[int], object] = lambda count: None) -> str:
    """The file's SHA-256 in hex; ``advance`` is told of every block's length in bytes."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            advance(count)
    return digest.hexdigest()


def model_files(folder: Path, models: Iterable[str]) -> dict[str, Path]:
    """Every file of these models, by its path relative to the folder; linked folders count as
    files, for what lies in them is the models' too."""
    found = {}
    for model in models:
        for path in sorted((folder / model).rglob("*")):
            if path.is_symlink() or not path.is_dir():
                found[path.relative_to(folder).as_posix()] = path
    return found


def is_model(name: str) -> bool:
    """Whether a folder of that name in a repository counts as a model's: a build under way is in a
    hidden one, and a file system may have its own."""
    return not name.startswith(".") and name != "lost+found"


def check_files(repositories: Iterable[Path]) -> None:
    """Compares all files of some repositories' models with the descriptors.

    Raises:
        PipelineError: which files have changed, are missing or too many, and what to do.
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
            if _stamp(path) != stamp:  # somebody is writing it
                return None
            _hashes[stamp] = found
        return _hashes[stamp]
    except OSError:
        return None


def _stamp(path: Path) -> _Stamp:
    """Changes with every write: nobody but root can set the time of the last change (ctime)."""
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
