"""Signs of life of the server's Python models: a file of each, touched every second.

A process that was stopped, or whose interpreter hangs, touches nothing, while Triton says that all
is ready. The step engine writes more: how many requests are under way, how many it has answered,
and which batches are at their networks, with how long they should take; so a network that hangs
is told from one that works long.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from sampling.flight import Flight

STATE_VARIABLE = "SEGS_STATE"
"""Environment variable of the Python models: the folder that the files go to."""
BEAT_S = 1.0
_ENGINE = "engine.json"
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
    flights: tuple[Flight, ...] = ()


def folder() -> Path | None:
    """Where signs of life go; None where nobody looks for them."""
    name = os.environ.get(STATE_VARIABLE)
    return Path(name) if name else None


def start_beating(instance: str) -> None:
    """Touches this process's file from a thread of its own, for good.

    Args:
        instance: the name of the model's instance, as Triton gives it.
    """
    if (state := folder()) is not None:
        path = state / f"{instance}.{os.getpid()}.beat"
        path.touch()
        threading.Thread(target=_beat, args=(path.touch,), name="heart", daemon=True).start()


def _beat(touch: Callable[[], None]) -> None:
    while True:
        time.sleep(BEAT_S)
        try:
            touch()
        except OSError:  # the folder has gone: the server is being stopped
            return


def write_state(state: EngineState) -> None:
    """The step engine's sign of life; for others to read whole or not at all."""
    if (place := folder()) is not None:
        write_whole(place / _ENGINE, state.model_dump_json())


def read_state(place: Path) -> EngineState | None:
    """The step engine's last sign of life; None if there is none."""
    try:
        return EngineState.model_validate_json((place / _ENGINE).read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError):
        return None


def order_drain(place: Path, order: Drain) -> None:
    """Tells the step engine, which looks every second."""
    write_whole(place / _DRAIN, order)


def write_whole(path: Path, text: str) -> None:
    """Writes a file that others read meanwhile: the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def drain_order() -> Drain | None:
    """What the step engine has been told."""
    place = folder()
    with contextlib.suppress(OSError):
        return None if place is None else cast(Drain, (place / _DRAIN).read_text())
    return None


def find_silent(place: Path, limit_s: float) -> list[str]:
    """The model instances that gave no sign of life for so long, dead ones among them."""
    silent = []
    for path in sorted([*place.glob("*.beat"), *place.glob(_ENGINE)]):
        try:
            age_s = time.time() - path.stat().st_mtime
        except OSError:
            continue
        if age_s > limit_s:
            silent.append(
                "the step engine" if path.name == _ENGINE else path.name.rsplit(".", 2)[0]
            )
    return silent


def find_hanging(state: EngineState, now_s: float, least_s: float) -> list[str]:
    """The networks whose batch takes many times longer than it should.

    Args:
        least_s: what a batch may take however fast it should be.
    """
    if not state.flights:
        return []
    expected = [flight.expected_s for flight in state.flights]
    known_s = sum(each for each in expected if each is not None)
    allowed_s = max(least_s, _SLOWER * known_s)
    if None in expected:
        allowed_s = max(allowed_s, _FIRST_S)
    return [each.network for each in state.flights if now_s - each.since_s > allowed_s]


_SLOWER = 5.0
"""How many times longer than measured a batch may take: other work, a first call of its shape."""
_FIRST_S = 300.0
"""What the first batch of a network may take."""
