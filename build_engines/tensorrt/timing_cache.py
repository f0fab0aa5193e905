"""The timing cache: what a builder has measured on this GPU, kept in a file for the next build."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def read(path: Path) -> bytes:
    """The cache's bytes; none where there is no file yet."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def update(path: Path, merge: Callable[[bytes], bytes]) -> None:
    """Replaces the file by what ``merge`` makes of it.

    Builds that run side by side wait for each other here, so none loses what another has added;
    readers see the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f"{path.name}.lock")):
        merged = merge(read(path))
        descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(merged)
                file.flush()
                os.fsync(file.fileno())
            Path(scratch).replace(path)
        except BaseException:
            Path(scratch).unlink()
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
