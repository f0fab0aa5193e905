"""The step engine with networks that only keep count."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
import torch

from request_plan.refusals import DeadlineExceededError, StoppingError
from sampling import engine as engine_module
from sampling.engine import Networks, StepEngine
from sampling.policy import Requester
from sampling.program import NetworkCall, Program, Tensors
from sampling.progress import BatchTiming
from tests.virtual_time import now_s, run, use_virtual_time

T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """A limit of rows, whatever their size."""

    most: int

    def batch_limit(self, row_shape: Sequence[int]) -> int:
        return self.most


@dataclass
class CountingNetworks:
    """Adds 1 to every row, and remembers each batch as (network, rows)."""

    seconds: float = 0.0
    batches: list[tuple[str, int]] = field(default_factory=list)

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        self.batches.append((network, inputs["x"].shape[0]))
        await asyncio.sleep(self.seconds)
        if network == "broken":
            raise RuntimeError("this network is broken")
        return {"y": inputs["x"] + 1}


def steps(count: int, *, network: str = "net", width: int = 2, rows: int = 1) -> Program[float]:
    """A program of ``count`` calls; returns how often a 1 was added to its 0."""
    x = torch.zeros(rows, width)
    for _ in range(count):
        outputs = yield NetworkCall(network, {"x": x})
        x = outputs["y"]
    return float(x.mean())


def on_engine(
    work: Callable[[StepEngine], Awaitable[T]], networks: Networks, max_batch: int = 4
) -> T:
    """What comes of the work, in virtual time."""

    async def main() -> T:
        limits = dict.fromkeys(("net", "other", "broken"), Rows(max_batch))
        engine = StepEngine(networks, limits)
        for network in limits:
            engine.costs.observe(network, 2, 0.001)
        serving = asyncio.create_task(engine.serve())
        try:
            return await asyncio.wait_for(asyncio.ensure_future(work(engine)), 10)
        finally:
            serving.cancel()

    with pytest.MonkeyPatch.context() as patch:
        use_virtual_time(patch, engine_module.__name__)
        return run(main)


def test_programs_go_step_by_step_together() -> None:
    networks = CountingNetworks()

    async def work(engine: StepEngine) -> list[float]:
        return await asyncio.gather(*(engine.run(steps(5)) for _ in range(4)))

    assert on_engine(work, networks) == [5.0] * 4
    assert networks.batches == [("net", 4)] * 5


def test_a_batch_never_exceeds_its_limit_and_calls_stay_whole() -> None:
    networks = CountingNetworks()

    async def work(engine: StepEngine) -> list[float]:
        return await asyncio.gather(*(engine.run(steps(3, rows=2)) for _ in range(5)))

    assert on_engine(work, networks, max_batch=5) == [3.0] * 5
    assert {rows for _, rows in networks.batches} <= {2, 4}


def test_a_call_larger_than_the_limit_goes_in_parts() -> None:
    networks = CountingNetworks()
    assert on_engine(lambda engine: engine.run(steps(1, rows=9)), networks, max_batch=4) == 1.0
    assert networks.batches == [("net", 4), ("net", 4), ("net", 1)]


def test_shapes_and_networks_are_not_mixed() -> None:
    networks = CountingNetworks()

    async def work(engine: StepEngine) -> list[float]:
        programs = [steps(2, width=2), steps(2, width=3), steps(2, network="other")]
        return await asyncio.gather(*map(engine.run, programs))

    assert on_engine(work, networks) == [2.0] * 3
    assert sorted(networks.batches) == [("net", 1)] * 4 + [("other", 1)] * 2


def test_who_comes_later_joins_the_next_step() -> None:
    networks = CountingNetworks(seconds=0.01)

    async def work(engine: StepEngine) -> list[float]:
        first = asyncio.ensure_future(engine.run(steps(6)))
        await asyncio.sleep(0.025)
        second = asyncio.ensure_future(engine.run(steps(2)))
        return [await first, await second]

    assert on_engine(work, networks) == [6.0, 2.0]
    assert sum(rows for _, rows in networks.batches) == 8
    assert [rows for _, rows in networks.batches].count(2) == 2  # both of its steps were shared


def test_a_faulty_program_fails_alone() -> None:
    def faulty() -> Program[float]:
        yield NetworkCall("net", {"x": torch.zeros(1, 2)})
        raise ValueError("mine alone")

    async def work(engine: StepEngine) -> list[float | BaseException]:
        programs = [faulty(), steps(3)]
        return await asyncio.gather(*map(engine.run, programs), return_exceptions=True)

    failed, good = on_engine(work, CountingNetworks())
    assert isinstance(failed, ValueError)
    assert good == 3.0


def test_a_broken_network_fails_its_callers_and_the_engine_goes_on() -> None:
    async def work(engine: StepEngine) -> float:
        with pytest.raises(RuntimeError, match="this network is broken"):
            await engine.run(steps(1, network="broken"))
        return await engine.run(steps(2))

    assert on_engine(work, CountingNetworks()) == 2.0


def test_a_closed_engine_ends_everything() -> None:
    async def work(engine: StepEngine) -> list[float | BaseException]:
        under_way = [asyncio.create_task(engine.run(steps(1000))) for _ in range(3)]
        await asyncio.sleep(0.02)
        engine.close()
        under_way.append(asyncio.create_task(engine.run(steps(1))))
        return await asyncio.gather(*under_way, return_exceptions=True)

    outcomes = on_engine(work, CountingNetworks(seconds=0.001))
    assert [type(outcome) for outcome in outcomes] == [StoppingError] * 4


def test_who_waits_hears_of_an_engine_that_ends() -> None:
    async def main() -> None:
        engine = StepEngine(CountingNetworks(seconds=10), {"net": Rows(4)})
        serving = asyncio.create_task(engine.serve())
        waiting = asyncio.create_task(engine.run(steps(1)))
        await asyncio.sleep(0.01)
        assert [flight.network for flight in engine.flights] == ["net"]
        serving.cancel()
        with pytest.raises(StoppingError):
            await waiting

    asyncio.run(main())


@dataclass
class PickyNetworks(CountingNetworks):
    """Fails a batch that holds a negative row."""

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        outputs = await super().run(network, inputs)
        if (inputs["x"] < 0).any():
            raise RuntimeError("a negative row")
        return outputs


def test_a_call_that_fails_its_batch_fails_alone() -> None:
    def negative() -> Program[float]:
        outputs = yield NetworkCall("net", {"x": torch.full((1, 2), -5.0)})
        return float(outputs["y"].mean())

    async def work(engine: StepEngine) -> list[float | BaseException]:
        programs = [steps(3), negative(), steps(3), steps(2)]
        return await asyncio.gather(*map(engine.run, programs), return_exceptions=True)

    networks = PickyNetworks()
    first, failed, *others = on_engine(work, networks)
    assert isinstance(failed, RuntimeError)
    assert [first, *others] == [3.0, 3.0, 2.0]
    assert networks.batches[:5] == [("net", 4), *[("net", 1)] * 4]


def test_a_late_program_ends_within_a_step() -> None:
    networks = CountingNetworks(seconds=0.01)

    async def work(engine: StepEngine) -> None:
        with pytest.raises(DeadlineExceededError):
            await engine.run(steps(10_000), Requester(deadline_s=now_s() + 0.05))

    on_engine(work, networks)
    assert len(networks.batches) == 6


def test_a_cancelled_caller_frees_its_place() -> None:
    networks = CountingNetworks(seconds=0.01)

    async def work(engine: StepEngine) -> float:
        gone = asyncio.ensure_future(engine.run(steps(10_000)))
        await asyncio.sleep(0.025)
        gone.cancel()
        before = len(networks.batches)
        await asyncio.sleep(0.05)
        assert len(networks.batches) <= before + 1
        return await engine.run(steps(1))

    assert on_engine(work, networks) == 1.0


def test_no_wake_up_is_lost_whenever_batches_end_and_calls_come() -> None:
    """Ends and arrivals that fall into the same turn of the loop."""
    draws = random.Random(0)

    class Hasty(CountingNetworks):
        async def run(self, network: str, inputs: Tensors) -> Tensors:
            for _ in range(draws.randrange(4)):
                await asyncio.sleep(0)
            return {"y": inputs["x"] + 1}

    async def work(engine: StepEngine) -> list[float]:
        async def come(count: int) -> float:
            for _ in range(draws.randrange(6)):
                await asyncio.sleep(0)
            return await engine.run(steps(count, width=draws.randrange(1, 3)))

        done: list[float] = []
        for _ in range(300):
            done += await asyncio.gather(come(1), come(2))
        return done

    assert sum(on_engine(work, Hasty())) == 900


def test_priority_gets_its_multiple_of_the_device() -> None:
    networks = CountingNetworks(seconds=0.002)

    async def work(engine: StepEngine) -> float:
        low, high = Requester(weight=1), Requester(weight=4)
        slow = asyncio.ensure_future(engine.run(steps(1000), low))
        await engine.run(steps(40), high)
        slow.cancel()
        return high.device_s / low.device_s

    assert on_engine(work, networks, max_batch=1) == pytest.approx(4, rel=0.3)


def test_what_stays_the_same_is_joined_once() -> None:
    seen: list[int] = []

    class Watched(CountingNetworks):
        async def run(self, network: str, inputs: Tensors) -> Tensors:
            seen.append(inputs["text"].data_ptr())
            assert torch.equal(inputs["text"], inputs["x"][:, :1] * 0 + inputs["mine"])
            return await super().run(network, inputs)

    def told(mine: float) -> Program[float]:
        x, text = torch.zeros(1, 2), torch.full((1, 1), mine)
        for _ in range(5):
            said = {"x": x, "text": text, "mine": torch.full((1, 1), mine)}
            x = (yield NetworkCall("net", said))["y"]
        return float(x.mean())

    async def work(engine: StepEngine) -> list[float]:
        together = await asyncio.gather(*(engine.run(told(n)) for n in range(3)))
        return together + await asyncio.gather(*(engine.run(told(n)) for n in range(3, 6)))

    assert on_engine(work, Watched()) == [5.0] * 6
    assert len(set(seen[:5])) == 1
    assert len(set(seen[5:])) == 1


def test_a_witness_sees_each_batch_of_its_program() -> None:
    seen: list[BatchTiming] = []

    async def work(engine: StepEngine) -> None:
        other = engine.run(steps(2, rows=3), Requester())
        await asyncio.gather(engine.run(steps(3), Requester(), seen.append), other)

    on_engine(work, CountingNetworks(seconds=1.0), max_batch=4)
    assert [each.network for each in seen] == ["net"] * 3
    assert [(each.rows, each.batch_rows, each.batch_calls) for each in seen] == [
        (1, 4, 2),
        (1, 4, 2),
        (1, 1, 1),
    ]
    assert [each.batch_requests for each in seen] == [2, 2, 1]
    assert all(each.answered for each in seen)
    assert {each.begun_ns - each.queued_ns for each in seen} == {0}
    assert {each.ended_ns - each.begun_ns for each in seen} == {10**9}


def test_a_witness_sees_batches_that_fail() -> None:
    seen: list[BatchTiming] = []

    async def work(engine: StepEngine) -> None:
        with pytest.raises(RuntimeError):
            await engine.run(steps(1, network="broken"), batch_listener=seen.append)

    on_engine(work, CountingNetworks())
    assert [each.answered for each in seen] == [False]
