"""Random programs with random faults on the step engine: every run ends, in the way that its own
program and its own fault make it end, with exactly the numbers that it gets alone."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from request_plan.refusals import DeadlineExceededError, StoppingError
from sampling.engine import StepEngine
from sampling.faults import AnswerError, MalformedAnswerError, NotFiniteError
from sampling.policy import Requester
from sampling.program import NetworkCall, Program, Tensors, run_alone
from sampling.slots import Slots
from tests.sampling.test_engine import Rows

NETWORKS = {"net": (0.5, 1.0), "other": (-1.5, 0.25)}
"""Each answers a·x + b."""
NO_FAULT = ""
BY_NETWORK: dict[str, type[BaseException]] = {
    "NaN": NotFiniteError,
    "infinity": NotFiniteError,
    "raises": RuntimeError,
    "is cancelled": AnswerError,
    "short": MalformedAnswerError,
    "narrow": MalformedAnswerError,
    "nothing": MalformedAnswerError,
}
"""What a network does to a batch with a marked row, and how that row's program ends."""
MARKS = {fault: float(number) for number, fault in enumerate(BY_NETWORK, start=1)}
BY_PROGRAM: dict[str, type[BaseException]] = {
    "raises itself": ZeroDivisionError,
    "asks nobody": KeyError,
    "asks for nothing": ValueError,
    "yields no call": AttributeError,
}
ENDS = {**BY_NETWORK, **BY_PROGRAM}


@dataclass(frozen=True)
class Run:
    """One program: what it computes, when it comes, and what befalls it. Times count turns of the
    event loop."""

    network: str
    width: int
    rows: int
    calls: int
    start: float
    requester: int
    fault: str
    fault_at: int
    comes: int
    cancelled: int | None
    stubborn: bool
    """It yields once more when it is closed."""


@dataclass(frozen=True)
class Scenario:
    runs: tuple[Run, ...]
    durations: tuple[int, ...]
    """Of the batches, in turns."""
    expires: tuple[int | None, int | None, int | None]
    """When each requester's deadline passes."""
    closes: int | None
    max_rows: int
    places: int


def program(run: Run, fault: str = NO_FAULT) -> Program[list[float]]:
    x = torch.arange(run.rows * run.width, dtype=torch.float32).reshape(run.rows, -1) + run.start
    try:
        for step in range(run.calls):
            now = fault if step == run.fault_at else NO_FAULT
            mark = torch.zeros(run.rows, 1)
            mark[-1] = MARKS.get(now, 0.0)
            if now == "raises itself":
                raise ZeroDivisionError
            if now == "yields no call":
                yield "net"  # type: ignore[misc]
            inputs = {"x": x[:0] if now == "asks for nothing" else x, "mark": mark}
            if now == "asks for nothing":
                inputs["mark"] = mark[:0]
            network = "nobody" if now == "asks nobody" else run.network
            x = (yield NetworkCall(network, inputs, {"y": (run.width,)}))["y"]
    except GeneratorExit:
        if run.stubborn:
            yield NetworkCall("net", {"x": torch.zeros(1, 1)})
        raise
    return [float(value) for value in x.flatten()]


def compute(call: NetworkCall) -> Tensors:
    a, b = NETWORKS[call.network]
    return {"y": call.inputs["x"] * a + b}


SPOILED: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "NaN": lambda y, bad: torch.where(bad, float("nan"), y),
    "infinity": lambda y, bad: torch.where(bad, -float("inf"), y),
    "short": lambda y, bad: y[:-1],
    "narrow": lambda y, bad: y[:, :1],
}


@dataclass
class Toys:
    """Answers a·x + b after some turns, or as the batch's marked rows want it."""

    durations: Sequence[int]

    def __post_init__(self) -> None:
        self._durations = itertools.cycle(self.durations)

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        for _ in range(next(self._durations)):
            await asyncio.sleep(0)
        y, mark = compute(NetworkCall(network, inputs))["y"], inputs["mark"]
        for fault, number in MARKS.items():
            bad = mark == number
            if not bad.any():
                continue
            if fault == "raises":
                raise RuntimeError(fault)
            if fault == "is cancelled":
                raise asyncio.CancelledError
            if fault == "nothing":
                return {}
            y = SPOILED[fault](y, bad)
        return {"y": y}


def runs() -> st.SearchStrategy[Run]:
    turns = st.integers(0, 30)
    return st.builds(
        Run,
        network=st.sampled_from(sorted(NETWORKS)),
        width=st.integers(2, 3),
        rows=st.integers(1, 3),
        calls=st.integers(0, 6),
        start=st.integers(-4, 4).map(float),
        requester=st.integers(0, 2),
        fault=st.one_of(st.just(NO_FAULT), st.sampled_from(sorted(ENDS))),
        fault_at=st.integers(0, 6),
        comes=turns,
        cancelled=st.one_of(st.none(), turns),
        stubborn=st.booleans(),
    )


def scenarios() -> st.SearchStrategy[Scenario]:
    turn = st.one_of(st.none(), st.integers(0, 60))
    return st.builds(
        Scenario,
        runs=st.lists(runs(), min_size=1, max_size=10).map(tuple),
        durations=st.lists(st.integers(0, 5), min_size=1, max_size=8).map(tuple),
        expires=st.tuples(turn, turn, turn),
        closes=st.one_of(st.none(), st.none(), st.integers(0, 60)),
        max_rows=st.integers(1, 8),
        places=st.integers(1, 6),
    )


@dataclass
class World:
    """One scenario under way."""

    scenario: Scenario

    def __post_init__(self) -> None:
        limits = dict.fromkeys(NETWORKS, Rows(self.scenario.max_rows))
        self.engine = StepEngine(Toys(self.scenario.durations), limits)
        for network in NETWORKS:
            self.engine.costs.observe(network, 2, 0.001)
        self.slots = Slots(self.scenario.places)
        self.requesters = [Requester(str(number)) for number in range(3)]
        self.programs = [program(run, run.fault) for run in self.scenario.runs]

    async def play(self) -> list[list[float] | BaseException]:
        serving = asyncio.create_task(self.engine.serve())
        tasks = [
            asyncio.create_task(self._come(run, made))
            for run, made in zip(self.scenario.runs, self.programs, strict=True)
        ]
        others = [asyncio.create_task(self._expire(number)) for number in range(3)]
        others.append(asyncio.create_task(self._close()))
        others += [
            asyncio.create_task(self._cancel(run, task))
            for run, task in zip(self.scenario.runs, tasks, strict=True)
        ]
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        await asyncio.gather(*others)
        await _turns(20)  # batches of those who are gone come to their ends
        self._check_nothing_is_left()
        assert not serving.done()
        serving.cancel()
        return ended

    async def _come(self, run: Run, made: Program[list[float]]) -> list[float]:
        await _turns(run.comes)
        requester = self.requesters[run.requester]
        async with self.slots.place(requester):
            return await self.engine.run(made, requester)

    async def _cancel(self, run: Run, task: asyncio.Task[list[float]]) -> None:
        if run.cancelled is not None:
            await _turns(run.cancelled)
            task.cancel()

    async def _expire(self, number: int) -> None:
        turns = self.scenario.expires[number]
        if turns is not None:
            await _turns(turns)
            self.requesters[number].deadline_s = 0.0

    async def _close(self) -> None:
        if self.scenario.closes is not None:
            await _turns(self.scenario.closes)
            self.engine.close()

    def _check_nothing_is_left(self) -> None:
        engine = self.engine
        assert not (engine._live or engine._groups or engine._active or engine._running)
        assert not (self.slots.held or self.slots._waiting)
        for run, made in zip(self.scenario.runs, self.programs, strict=True):
            state = inspect.getgeneratorstate(made)
            assert state in (inspect.GEN_CLOSED, inspect.GEN_CREATED) or run.stubborn


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def check(run: Run, scenario: Scenario, ended: list[float] | BaseException) -> None:
    """A run ends as its own program and fault would have it, unless it was cancelled, late or
    stopped first."""
    if isinstance(ended, asyncio.CancelledError):
        assert run.cancelled is not None
    elif isinstance(ended, DeadlineExceededError):
        assert scenario.expires[run.requester] is not None
    elif isinstance(ended, StoppingError):
        assert scenario.closes is not None
    elif run.fault and run.fault_at < run.calls:
        assert isinstance(ended, ENDS[run.fault])
    else:
        assert ended == run_alone(program(run), compute)


@given(scenarios())
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_every_run_ends_as_it_would_alone(scenario: Scenario) -> None:
    logging.disable(logging.CRITICAL)
    try:
        ended = asyncio.run(World(scenario).play())
    finally:
        logging.disable(logging.NOTSET)
    for run, end in zip(scenario.runs, ended, strict=True):
        check(run, scenario, end)


@pytest.mark.parametrize("fault", sorted(ENDS))
def test_every_fault_of_the_fuzzing_is_one(fault: str) -> None:
    """Among others who stay as they are, so that the test above tests something."""
    marked = Run("net", 2, 2, 4, 1.0, 0, fault, 1, 0, None, stubborn=False)
    plain = Run("net", 2, 1, 5, 3.0, 1, NO_FAULT, 0, 0, None, stubborn=False)
    scenario = Scenario((plain, marked, plain), (1,), (None, None, None), None, 8, 6)
    first, failed, last = asyncio.run(World(scenario).play())
    assert isinstance(failed, ENDS[fault])
    assert first == last == run_alone(program(plain), compute)
