"""Faults of programs, of networks and of the engine itself: each stays where it happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from request_plan.refusals import DeadlineExceededError, LostError, StoppingError
from sampling import engine as engine_module
from sampling.engine import StepEngine
from sampling.faults import AnswerError, MalformedAnswerError, NotFiniteError
from sampling.policy import Requester, choose_batch
from sampling.program import NetworkCall, Program, Tensors
from sampling.rows import Finite
from tests.sampling.test_device import META, Watch
from tests.sampling.test_engine import CountingNetworks, Rows, on_engine, steps
from tests.virtual_time import now_s

WIDTH = 2


async def outcomes(engine: StepEngine, *programs: Program[float]) -> list[float | BaseException]:
    return await asyncio.gather(*map(engine.run, programs), return_exceptions=True)


def from_value(value: float, count: int = 1) -> Program[float]:
    """Starts at ``value`` instead of 0 and says which output it needs."""
    x = torch.full((1, WIDTH), value)
    for _ in range(count):
        x = (yield NetworkCall("net", {"x": x}, {"y": (WIDTH,)}))["y"]
    return float(x.mean())


@dataclass
class Spoiling(CountingNetworks):
    """Answers something else than 1 more where a row is negative."""

    spoil: Callable[[torch.Tensor, torch.Tensor], Any] = lambda y, bad: y

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        outputs = await super().run(network, inputs)
        bad = (inputs["x"] < 0).any(dim=1)
        spoiled = self.spoil(outputs["y"], bad) if bad.any() else outputs["y"]
        return {} if spoiled is None else {"y": spoiled}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("count", [1, 5])
def test_a_row_that_is_not_finite_ends_its_own_program(value: float, count: int) -> None:
    def spoil(y: torch.Tensor, bad: torch.Tensor) -> torch.Tensor:
        y = y.clone()
        y[bad, -1] = value
        return y

    networks = Spoiling(spoil=spoil)

    async def work(engine: StepEngine) -> list[float | BaseException]:
        return await outcomes(engine, steps(4), from_value(-9.0, count), steps(4), steps(3))

    first, failed, *others = on_engine(work, networks)
    assert isinstance(failed, NotFiniteError)
    assert [first, *others] == [4.0, 4.0, 3.0]
    # It is found with the next step's answer at the latest, and its batch was not run again.
    assert networks.batches == [("net", 4), ("net", 4 if count > 1 else 3), ("net", 3), ("net", 2)]


SPOILT: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "missing": lambda y, bad: None,
    "too few rows": lambda y, bad: y[:-1],
    "one row for all": lambda y, bad: y[:1].expand(len(y) + 1, -1),
    "narrower": lambda y, bad: y[:, :1],
    "one more axis": lambda y, bad: y[:, None],
    "no axis": lambda y, bad: y.sum(),
    "another type": lambda y, bad: y.double(),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_malformed_answer_fails_those_who_get_it_alone(fault: str) -> None:
    async def work(engine: StepEngine) -> list[float | BaseException]:
        return await outcomes(engine, from_value(0.0, 3), from_value(-9.0), from_value(0.0, 2))

    first, failed, last = on_engine(work, Spoiling(spoil=SPOILT[fault]))
    assert isinstance(failed, MalformedAnswerError)
    assert (first, last) == (3.0, 2.0)


def test_a_network_that_answers_nothing_at_all_fails_its_caller() -> None:
    class Silent(CountingNetworks):
        async def run(self, network: str, inputs: Tensors) -> Tensors:
            return None  # type: ignore[return-value]

    async def work(engine: StepEngine) -> list[float | BaseException]:
        return await outcomes(engine, from_value(0.0), from_value(0.0))

    assert all(isinstance(each, Exception) for each in on_engine(work, Silent()))


def test_a_call_that_its_network_cancelled_has_failed() -> None:
    class Cancelling(CountingNetworks):
        async def run(self, network: str, inputs: Tensors) -> Tensors:
            if network == "other":
                raise asyncio.CancelledError
            return await super().run(network, inputs)

    async def work(engine: StepEngine) -> list[float | BaseException]:
        return await outcomes(engine, steps(1, network="other"), steps(2))

    failed, good = on_engine(work, Cancelling())
    assert isinstance(failed, AnswerError)
    assert good == 2.0


def test_a_network_that_is_gone_is_not_asked_again_for_each() -> None:
    class Gone(CountingNetworks):
        async def run(self, network: str, inputs: Tensors) -> Tensors:
            outputs = await super().run(network, inputs)
            if network == "other":
                raise LostError
            return outputs

    async def work(engine: StepEngine) -> list[float | BaseException]:
        lost = (steps(1, network="other") for _ in range(3))
        return await outcomes(engine, *lost, steps(2))

    networks = Gone()
    *lost, good = on_engine(work, networks)
    assert [type(each) for each in lost] == [LostError] * 3
    assert good == 2.0
    assert networks.batches.count(("other", 3)) == len(networks.batches) - 2 == 1


def no_rows() -> Program[float]:
    yield NetworkCall("net", {"x": torch.zeros(0, WIDTH)})
    return 0.0


def uneven_rows() -> Program[float]:
    yield NetworkCall("net", {"x": torch.zeros(1, WIDTH), "t": torch.zeros(2, 1)})
    return 0.0


def unknown_network() -> Program[float]:
    yield NetworkCall("nobody", {"x": torch.zeros(1, WIDTH)})
    return 0.0


def no_call() -> Program[float]:
    yield "net"  # type: ignore[misc]
    return 0.0


def cannot_be_closed() -> Program[float]:
    try:
        yield NetworkCall("net", {"x": torch.zeros(1, WIDTH)})
        yield "net"  # type: ignore[misc]
    finally:
        yield NetworkCall("net", {"x": torch.zeros(1, WIDTH)})
    return 0.0


@pytest.mark.parametrize(
    "faulty", [no_rows, uneven_rows, unknown_network, no_call, cannot_be_closed]
)
def test_a_program_that_asks_for_nonsense_fails_alone(
    faulty: Callable[[], Program[float]],
) -> None:
    async def work(engine: StepEngine) -> list[float | BaseException]:
        return await outcomes(engine, steps(3), faulty(), steps(2))

    first, failed, last = on_engine(work, CountingNetworks())
    assert isinstance(failed, Exception)
    assert (first, last) == (3.0, 2.0)


def test_an_error_in_the_policy_ends_the_calls_it_was_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(group: Any, leader: Any, *others: Any) -> Any:
        if leader.call.network == "other":
            raise ZeroDivisionError
        return choose_batch(group, leader, *others)

    monkeypatch.setattr(engine_module, "choose_batch", failing)

    async def work(engine: StepEngine) -> list[float | BaseException]:
        both = [steps(1, network="other"), steps(2, network="other"), steps(3)]
        return [*await outcomes(engine, *both), await engine.run(steps(1))]

    first, second, *others = on_engine(work, CountingNetworks())
    assert isinstance(first, ZeroDivisionError)
    assert isinstance(second, ZeroDivisionError)
    assert others == [3.0, 1.0]


def test_an_error_in_the_books_ends_the_batch_and_the_engine_goes_on() -> None:
    async def work(engine: StepEngine) -> list[float | BaseException]:
        learn = engine.costs.observe

        def failing(network: str, size: int, seconds: float) -> None:
            if network == "other":
                raise ZeroDivisionError
            learn(network, size, seconds)

        engine.costs.observe = failing  # type: ignore[method-assign]
        return await outcomes(engine, steps(2, network="other"), steps(3))

    failed, good = on_engine(work, CountingNetworks())
    assert isinstance(failed, ZeroDivisionError)
    assert good == 3.0


def test_nobody_waits_for_an_engine_that_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(heads: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(engine_module, "leading_call", failing)

    async def main() -> None:
        engine = StepEngine(CountingNetworks(), {"net": Rows(4)})
        serving = asyncio.create_task(engine.serve())
        for _ in range(2):  # while it fails, and afterwards
            with pytest.raises(StoppingError):
                await asyncio.wait_for(engine.run(steps(1)), 5)
        with pytest.raises(ZeroDivisionError):
            await serving

    asyncio.run(main())


def test_calls_that_fail_are_charged_for() -> None:
    async def work(engine: StepEngine) -> float:
        requester = Requester()
        with pytest.raises(RuntimeError):
            await engine.run(steps(1, network="broken"), requester)
        return requester.device_s

    assert on_engine(work, CountingNetworks(seconds=0.02)) >= 0.02


def test_what_comes_again_by_itself_keeps_its_deadline_and_can_be_cancelled() -> None:
    networks = CountingNetworks(seconds=0.05)

    async def work(engine: StepEngine) -> list[float | BaseException]:
        late = Requester(deadline_s=now_s() + 0.06)
        tasks = [
            asyncio.create_task(engine.run(steps(1, network="broken"), requester))
            for requester in (None, late, None)
        ]
        await asyncio.sleep(0.06)
        tasks[2].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    kinds = [type(each) for each in on_engine(work, networks)]
    assert kinds == [RuntimeError, DeadlineExceededError, asyncio.CancelledError]
    assert networks.batches == [("broken", 3), ("broken", 1)]


def test_a_cancelled_call_leaves_the_queue_and_its_program_is_closed() -> None:
    closed = asyncio.Event()

    def closing() -> Program[float]:
        try:
            yield NetworkCall("net", {"x": torch.zeros(1, WIDTH)})
        finally:
            closed.set()
        return 0.0

    networks = CountingNetworks(seconds=0.5)

    async def work(engine: StepEngine) -> float:
        first = asyncio.create_task(engine.run(steps(1, network="other")))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(engine.run(closing()))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait_for(closed.wait(), 0.4)  # long before the batch ends
        return await first

    assert on_engine(work, networks) == 1.0
    assert networks.batches == [("other", 1)]


def test_whether_rows_are_finite_is_asked_without_waiting_for_the_device() -> None:
    watch = Watch()
    with watch:
        finite = Finite("net", {"y": torch.empty(2, 4, 8, 8, device=META)})
        assert (watch.now.values, watch.now.downloads) == (0, 1)
        finite.check(0, 2)  # the copy's own values, on the host
    assert (watch.now.values, watch.now.downloads) == (0, 1)


def test_every_output_and_every_row_is_looked_at() -> None:
    outputs = {"a": torch.zeros(3, 2), "ids": torch.zeros(3, 2, dtype=torch.int64)}
    Finite("net", outputs).check(0, 3)
    outputs["b"] = torch.zeros(3, 4, 5)
    outputs["b"][1, 2, 3] = float("nan")
    outputs["a"][2, 0] = float("inf")
    finite = Finite("net", outputs)
    finite.check(0, 1)
    for row in (1, 2):
        with pytest.raises(NotFiniteError, match="net"):
            finite.check(row, row + 1)
    with pytest.raises(NotFiniteError):
        finite.check(0, 3)
