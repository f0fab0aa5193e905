"""What a network's batch and a request at the door go through while processes die; no server."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from preprocessing.limits import Limits
from preprocessing.plan import LostError, StoppingError
from triton_models.front_end_stats import DoorStats
from triton_models.in_flight import Room


class Clock:
    """Time that passes where somebody waits."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """``bls`` and ``door``, with a stand-in for what Triton's stub brings."""
    utils = ModuleType("triton_python_backend_utils")
    vars(utils).update(Tensor=lambda *_: None, InferenceRequest=Order)
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    names = ("triton_models.stub", "triton_models.network_calls", "triton_models.front_end")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield {name.partition(".")[2]: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


class Order:
    """A call of a model that never ends."""

    def __init__(self, **_: Any) -> None:
        pass

    async def async_exec(self) -> Any:
        return await asyncio.get_running_loop().create_future()


MISSING = (1.0, False)
"""How long a call took, and whether it was answered: the model's process is not there."""


@pytest.mark.parametrize(
    ("calls", "is_answered"),
    [
        ([(0.1, True)], True),
        ([(300.0, False), *[MISSING] * 45, (1.0, True)], True),  # it had hung before it died
        ([(90.0, False), *[MISSING] * 45, (90.0, True)], True),  # as slow as it is
        ([(5.0, False), MISSING, (5.0, False), MISSING, (0.1, True)], True),
        ([(5.0, False), MISSING, (5.0, False), MISSING, (5.0, False), (0.1, True)], False),
        ([*[MISSING] * 45, (0.1, True)], True),
        ([*[MISSING] * 55, (0.1, True)], False),  # no other in a minute
    ],
)
def test_a_batch_waits_for_the_next_process(
    modules: dict[str, Any],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    calls: list[tuple[float, bool]],
    is_answered: bool,
) -> None:
    bls = modules["bls"]
    monkeypatch.setattr(bls, "time", clock)
    monkeypatch.setattr(bls, "asyncio", clock)
    left = list(calls)

    async def once(network: str, inputs: Any) -> Any:
        seconds, answered = left.pop(0)
        clock.now_s += seconds
        return {"out": network} if answered else None

    networks = bls.TritonNetworks({})
    monkeypatch.setattr(networks, "_run_once", once)
    if is_answered:
        assert asyncio.run(networks.run("unet", {})) == {"out": "unet"}
        assert not left
    else:
        with pytest.raises(LostError):
            asyncio.run(networks.run("unet", {}))


def test_a_request_outlives_two_troubles(
    modules: dict[str, Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = modules["door"]
    monkeypatch.setattr(door, "time", clock)
    monkeypatch.setattr(door, "asyncio", clock)
    request = SimpleNamespace(timeout=lambda: 0, is_cancelled=lambda: False)
    passage = door._Passage(SimpleNamespace(is_over=False), door.Visitor(request, "r"))
    is_there = iter([False] * 60 + [True] + [False] * 60 + [True])  # at each look
    deaths = iter([True, False])

    def look(_: Any) -> Any:
        told = next(is_there)
        return SimpleNamespace(all_alive=lambda *_: told)

    async def call(processes: Any) -> Any:
        clock.now_s += 40.0
        is_dead = next(deaths)
        processes.all_alive = lambda *_: not is_dead
        return None if is_dead else ["picture"]

    monkeypatch.setattr(door.heart, "processes", look)
    monkeypatch.setattr(passage, "_call", call)
    assert asyncio.run(passage.go()) == ["picture"]


@pytest.mark.parametrize(("ends", "lost"), [("call", 0), ("engine", 2)])
def test_what_triton_never_ends_is_counted(
    modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch, ends: str, lost: int
) -> None:
    door = modules["door"]
    monkeypatch.setattr(door, "_DROP_AGAIN_S", 0.01)
    monkeypatch.setattr(door, "_ANSWERED_S", 0.01)
    monkeypatch.setattr(door, "inside_parameters", dict)
    alive = [True]
    processes = SimpleNamespace(all_alive=lambda *_: alive[0])
    monkeypatch.setattr(door.heart, "processes", lambda _: processes)

    async def seen_off() -> int:
        opened = door.Door(Room(Limits()), DoorStats("segs_detailer"))
        call = asyncio.get_running_loop().create_future()
        opened.see_off(call, "token")
        await asyncio.sleep(0.05)
        assert opened.lost == 0
        assert opened._seen_off
        if ends == "call":
            call.set_result(None)
        alive[0] = False
        await asyncio.wait(opened._seen_off, timeout=5)
        assert not opened._seen_off
        return int(opened.lost)

    assert asyncio.run(seen_off()) == lost


def test_a_door_that_is_closed_lets_nobody_in(modules: dict[str, Any]) -> None:
    opened = modules["door"].Door(Room(Limits()), DoorStats("segs_detailer"))
    opened.is_closed = True
    with pytest.raises(StoppingError):
        asyncio.run(opened.let_through(SimpleNamespace()))
