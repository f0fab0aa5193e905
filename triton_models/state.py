"""Heartbeats, statuses and orders of the server's Python models, as files.

Each process touches its heartbeat file every second from its main loop: a front end and the step
engine from their event loop, the others from a thread that needs the interpreter. Front ends and
the step engine also write a status. All files are in one folder in memory
(:data:`triton_models.environment.STATE`), which the supervisor reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from sampling.flight import Flight
from triton_models import environment, memory

HEARTBEAT_S = 1.0
ENGINE_MODEL = "sample"
"""The model with the step engine."""
STAGE_MODELS = ("prepare", ENGINE_MODEL, "composite")
_ENGINE_STATUS = "engine.json"
_FRONT_END_STATUS = ".front.json"
"""Suffix after the name of the model."""
_DRAIN = "drain"

Drain = Literal["refuse", "end"]
"""Orders before a stop: refuse new requests, then end those in flight."""


class EngineStatus(BaseModel):
    """The step engine's status."""

    model_config = ConfigDict(frozen=True)

    requests: int
    """Requests in flight."""
    answered: int
    """Requests with a result since the start."""
    segs: int = 0
    """SEGs in flight."""
    queued: int = 0
    """SEGs of requests in flight that wait for a place."""
    queued_s: float = 0.0
    """Device seconds until all requests in flight are done, by estimate."""
    programs: int = 0
    """Running programs of these requests."""
    flights: tuple[Flight, ...] = ()


class FrontEndStatus(BaseModel):
    """A front end's status."""

    model_config = ConfigDict(frozen=True)

    model: str
    pending: int
    """Unanswered requests, waiting ones included, without canaries."""
    arrived: int
    """Requests since the start, without canaries."""
    lost: int
    """Calls that never end because a stage's process died; each keeps memory and a thread."""
    lost_limit: int
    """With more lost calls, the server has to be restarted."""
    followed: int = 0
    """Streams that are subscribed to the engine's events."""


def model_of(instance: str) -> str:
    """The model of an instance by Triton's name: ``sample_0_0`` → ``sample``."""
    return instance.rsplit("_", 2)[0]


def is_alive(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def folder() -> Path | None:
    """The folder of these files; None in a server without a supervisor."""
    name = os.environ.get(environment.STATE)
    return Path(name) if name else None


class Heartbeat:
    """Touches this process's file, and regularly returns freed memory to the system.

    Args:
        instance: Triton's name of the model's instance.
    """

    def __init__(self, instance: str) -> None:
        place = folder()
        self._path = None if place is None else place / f"{instance}.{os.getpid()}.beat"
        self._beats = 0

    def beat(self) -> None:
        """To be called every :data:`HEARTBEAT_S`."""
        self._beats += 1
        with contextlib.suppress(OSError):  # the folder is removed: the server is being stopped
            if self._path is not None:
                self._path.touch()
        if self._beats % round(memory.EVERY_S / HEARTBEAT_S) == 0:
            memory.give_back()

    async def run(self, report: Callable[[], object]) -> None:
        """Beats from the event loop of this process until cancelled.

        Args:
            report: called before each beat.
        """
        while True:
            report()
            self.beat()
            await asyncio.sleep(HEARTBEAT_S)

    def start_thread(self) -> None:
        """Beats from a thread, for a process without an event loop."""
        self.beat()
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(HEARTBEAT_S)
            self.beat()


def all_alive(models: Collection[str]) -> bool:
    """Whether each of these models has a running process, by the heartbeat files; True in a server
    without a supervisor."""
    if (place := folder()) is None:
        return True
    beating = [
        model_of(instance)
        for model in models
        for instance, pid in map(parse_heartbeat, place.glob(f"{model}_*.beat"))
        if is_alive(pid)
    ]
    return set(beating).issuperset(models)


def parse_heartbeat(path: Path) -> tuple[str, int]:
    """The instance and the process id in the name of a heartbeat file."""
    instance, pid, _ = path.name.rsplit(".", 2)
    return instance, int(pid)


def instances(place: Path) -> frozenset[str]:
    """All instances with a heartbeat file, running or not."""
    return frozenset(parse_heartbeat(path)[0] for path in place.glob("*.beat"))


def write_status(status: EngineStatus | FrontEndStatus) -> None:
    """Writes this process's status atomically."""
    if (place := folder()) is None:
        return
    name = _ENGINE_STATUS if isinstance(status, EngineStatus) else status.model + _FRONT_END_STATUS
    path, text = place / name, status.model_dump_json()
    try:
        write_whole(path, text)
    except OSError:
        # No memory left for a second file: overwrite the first one. (Or the folder is removed
        # because the server is being stopped.)
        with contextlib.suppress(OSError), path.open("r+") as file:
            file.write(text)
            file.truncate()


def read_engine(place: Path) -> EngineStatus | None:
    """The step engine's last status; None if there is none."""
    try:
        return EngineStatus.model_validate_json((place / _ENGINE_STATUS).read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError):
        return None


def remove_engine_status(place: Path) -> None:
    """Removes the status before the step engine's process is replaced."""
    (place / _ENGINE_STATUS).unlink(missing_ok=True)


def read_front_ends(place: Path) -> list[FrontEndStatus]:
    """The last status of each front end that has written one."""
    found = []
    for path in sorted(place.glob(f"*{_FRONT_END_STATUS}")):
        with contextlib.suppress(OSError, ValidationError, json.JSONDecodeError):
            found.append(FrontEndStatus.model_validate_json(path.read_bytes()))
    return found


def order_drain(place: Path, order: Drain) -> None:
    """Writes an order, which front ends and the step engine read every second."""
    write_whole(place / _DRAIN, order)


def drain_order() -> Drain | None:
    """The current order, if any."""
    place = folder()
    with contextlib.suppress(OSError):
        return None if place is None else cast(Drain, (place / _DRAIN).read_text())
    return None


def write_whole(path: Path, text: str) -> None:
    """Writes a file atomically.

    Raises:
        OSError: it cannot be written; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
