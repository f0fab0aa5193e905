"""Signs of life of the server's Python models: a file of each, touched every second.

A process that was stopped, or whose interpreter hangs, touches nothing, while Triton says that all
is ready. The step engine writes more: how many requests are under way, how many it has answered,
and which batches are at their networks, with how long they should take; so a network that hangs
is told from one that works long.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from sampling.flight import Flight
from serving import memory

STATE_VARIABLE = "SEGS_STATE"
"""Environment variable of the Python models: the folder that the files go to."""
BEAT_S = 1.0
ENGINE_MODEL = "sample"
"""The model that the step engine runs in."""
_ENGINE = "engine.json"
_DOOR = ".door.json"
"""After the name of the model."""
_DRAIN = "drain"

Drain = Literal["refuse", "end"]
"""What the step engine is told before a stop: let nobody in, then end what is under way."""


class EngineState(BaseModel):
    """What the step engine is doing."""

    model_config = ConfigDict(frozen=True)

    requests: int
    """Under way."""
    answered: int
    """Since the start, with a result."""
    segs: int = 0
    """SEGs under way."""
    queued: int = 0
    """SEGs that wait for a place among them."""
    queued_s: float = 0.0
    """Device seconds until all requests under way are done, by estimate."""
    programs: int = 0
    """Their programs that the engine drives."""
    flights: tuple[Flight, ...] = ()


class DoorState(BaseModel):
    """What a door is doing."""

    model_config = ConfigDict(frozen=True)

    model: str
    """The door's."""
    pending: int
    """Requests inside."""
    lost: int
    """Calls that Triton will never end, as their process died: they hold memory and a thread."""
    followed: int = 0
    """Requests whose events it listens to."""


@dataclass(frozen=True)
class Processes:
    """The processes of some models' instances that were there at one moment."""

    pids: Mapping[str, int]
    """By instance."""
    told: bool = True
    """Whether signs of life are given at all; where not, all count as alive."""

    def all_alive(self, *models: str) -> bool:
        """Whether every process of these models is still there, and there is one of each."""
        if not self.told:
            return True
        found = {model_of(instance) for instance in self.pids}
        return found.issuperset(models) and all(
            is_alive(pid) for instance, pid in self.pids.items() if model_of(instance) in models
        )


def model_of(instance: str) -> str:
    """The model of an instance that Triton named: ``sample_0_0`` → ``sample``."""
    return instance.rsplit("_", 2)[0]


def is_alive(pid: int) -> bool:
    """Whether the process is there and has not ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def folder() -> Path | None:
    """Where signs of life go; None where nobody looks for them."""
    name = os.environ.get(STATE_VARIABLE)
    return Path(name) if name else None


def start_beating(instance: str) -> None:
    """Touches this process's file from a thread of its own, for good; and gives back its memory.

    Args:
        instance: the name of the model's instance, as Triton gives it.
    """
    if (state := folder()) is not None:
        path = state / f"{instance}.{os.getpid()}.beat"
        path.touch()
        threading.Thread(target=_beat, args=(path.touch,), name="heart", daemon=True).start()


def _beat(touch: Callable[[], None]) -> None:
    for beat in itertools.count(1):
        time.sleep(BEAT_S)
        try:
            touch()
        except OSError:  # the folder has gone: the server is being stopped
            return
        if beat % round(memory.EVERY_S / BEAT_S) == 0:
            memory.give_back()


def processes(models: Collection[str]) -> Processes:
    """The living processes of these models, by their signs of life."""
    place = folder()
    found: dict[str, int] = {}
    for path in [] if place is None else sorted(place.glob("*.beat")):
        instance, pid = read_beat(path)
        if model_of(instance) in models and is_alive(pid):
            found[instance] = pid
    return Processes(found, told=place is not None)


def read_beat(path: Path) -> tuple[str, int]:
    """The instance and the process id in the name of a file that is touched."""
    instance, pid, _ = path.name.rsplit(".", 2)
    return instance, int(pid)


def write_state(state: EngineState | DoorState) -> None:
    """A sign of life of the step engine or the door; for others to read whole or not at all."""
    if (place := folder()) is None:
        return
    model = ENGINE_MODEL if isinstance(state, EngineState) else state.model
    path, text = words_of(place, model), state.model_dump_json()
    try:
        write_whole(path, text)
    except OSError:
        # No room for a second file: over the first one, which takes none. (Or there is no folder
        # any more, as the server is being stopped.)
        with contextlib.suppress(OSError), path.open("r+") as file:
            file.write(text)
            file.truncate()


def words_of(place: Path, model: str) -> Path:
    """The file in which the step engine or a door says how it goes; other models say nothing."""
    return place / (_ENGINE if model == ENGINE_MODEL else model + _DOOR)


def read_state(place: Path) -> EngineState | None:
    """The step engine's last sign of life; None if there is none."""
    try:
        return EngineState.model_validate_json(words_of(place, ENGINE_MODEL).read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError):
        return None


def forget_engine(place: Path) -> None:
    """Removes what the step engine said last; for when another takes its place."""
    words_of(place, ENGINE_MODEL).unlink(missing_ok=True)


def read_doors(place: Path) -> list[DoorState]:
    """The last words of the doors that have said any."""
    found = []
    for path in sorted(place.glob(f"*{_DOOR}")):
        with contextlib.suppress(OSError, ValidationError, json.JSONDecodeError):
            found.append(DoorState.model_validate_json(path.read_bytes()))
    return found


def order_drain(place: Path, order: Drain) -> None:
    """Tells the step engine, which looks every second."""
    write_whole(place / _DRAIN, order)


def write_whole(path: Path, text: str) -> None:
    """Writes a file that others read meanwhile: the old one or the new one, whole.

    Raises:
        OSError: it cannot be written; the old one stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def drain_order() -> Drain | None:
    """What the step engine has been told."""
    place = folder()
    with contextlib.suppress(OSError):
        return None if place is None else cast(Drain, (place / _DRAIN).read_text())
    return None


def instances(place: Path) -> frozenset[str]:
    """All instances that ever gave a sign of life, and were not known to be dead since."""
    return frozenset(read_beat(path)[0] for path in place.glob("*.beat"))


def find_hanging(
    state: EngineState, now_s: float, least_s: float, not_before_s: float = 0.0
) -> list[str]:
    """The networks whose batch takes many times longer than it should.

    Args:
        now_s: ``time.monotonic()``.
        least_s: what a batch may take however fast it should be.
        not_before_s: when a model was loaded again last; batches began again then.
    """
    if not state.flights:
        return []
    expected = [flight.expected_s for flight in state.flights]
    known_s = sum(each for each in expected if each is not None)
    allowed_s = max(least_s, _SLOWER * known_s)
    if None in expected:
        allowed_s = max(allowed_s, _FIRST_S)
    return [
        each.network
        for each in state.flights
        if now_s - max(each.since_s, not_before_s) > allowed_s
    ]


_SLOWER = 5.0
"""How many times longer than measured a batch may take: other work, a first call of its shape."""
_FIRST_S = 300.0
"""What the first batch of a network may take."""
