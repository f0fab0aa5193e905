"""What the processes of a server hold: memory, threads, descriptors, shared memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

_SHARED_MEMORY = re.compile(r"/dev/shm/\S+")
_BLOCK_BYTES = 512


@dataclass(frozen=True)
class Held:
    """What one process holds, or several together.

    ``rss_bytes`` counts shared pages in every process, ``pss_bytes`` once among all that share
    them, other servers on the machine included; ``anonymous_bytes`` are heaps and stacks.
    """

    rss_bytes: int = 0
    pss_bytes: int = 0
    anonymous_bytes: int = 0
    threads: int = 0
    descriptors: int = 0

    def __add__(self, other: Held) -> Held:
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(Held))
        return Held(*(one + two for one, two in pairs))


@dataclass(frozen=True)
class Sample:
    """All processes at one moment; ``shared_bytes`` is what their files in /dev/shm take."""

    at_s: float
    held: Mapping[str, Held]
    shared_bytes: int

    @property
    def total(self) -> Held:
        """All processes together."""
        return sum(self.held.values(), Held())


def sample(processes: Mapping[str, int], at_s: float) -> Sample:
    """Looks at the processes, given by name; those that end meanwhile are left out."""
    held = {}
    for name, pid in processes.items():
        with contextlib.suppress(OSError, LookupError):
            held[name] = _held(Path(f"/proc/{pid}"))
    shared = shared_files(processes.values())
    return Sample(at_s, held, sum(_allocated(Path(path)) for path in shared))


def shared_files(pids: Iterable[int]) -> set[str]:
    """Paths of the shared memory that the processes have mapped."""
    found: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found.update(_SHARED_MEMORY.findall(Path(f"/proc/{pid}/maps").read_text()))
    return found


def _held(process: Path) -> Held:
    rollup = _numbers((process / "smaps_rollup").read_text())
    status = _numbers((process / "status").read_text())
    return Held(
        rollup["Rss"] * 1024,
        rollup["Pss"] * 1024,
        rollup["Anonymous"] * 1024,
        status["Threads"],
        sum(1 for _ in (process / "fd").iterdir()),
    )


def _numbers(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"(\w+):\s+(\d+)\b", text)}


def _allocated(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_blocks * _BLOCK_BYTES
    return 0
