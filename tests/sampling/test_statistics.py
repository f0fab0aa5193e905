"""Counting: sums by label values, measurements that are taken once, names of shapes."""

from __future__ import annotations

import asyncio

import pytest

from sampling.engine import StepEngine
from sampling.statistics import Counter, EngineStats, Observations, shape_label
from tests.sampling.test_engine import CountingNetworks, on_engine, steps


def test_a_counter_sums_by_labels() -> None:
    counter = Counter([("known",)])
    counter.add("a")
    counter.add("a", amount=2)
    seen = counter.values()
    counter.add("b")
    assert seen == {("known",): 0, ("a",): 3}
    assert counter.values() == {("known",): 0, ("a",): 3, ("b",): 1}


def test_measurements_are_taken_once_and_only_if_wanted() -> None:
    observations = Observations()
    observations.add(1.0, "a")
    assert observations.take() == []
    observations.wanted = True
    observations.add(2.0, "a")
    observations.add(3.0)
    assert observations.take() == [(2.0, ("a",)), (3.0, ())]
    assert observations.take() == []


@pytest.mark.parametrize(
    ("row_shape", "label"),
    [
        ((4, 64, 64), "64x64"),
        ((4, 19, 24), "32x32"),
        ((4, 64, 65), "128x128"),
        ((4, 32, 128), "64x64"),
        ((3, 1, 1), "1x1"),
        ((77,), "77"),
        ((), "1"),
    ],
)
def test_shapes_have_few_names(row_shape: tuple[int, ...], label: str) -> None:
    assert shape_label(row_shape) == label


def test_all_sizes_of_latents_have_nine_names() -> None:
    names = {shape_label((4, h, w)) for h in range(1, 257, 3) for w in range(1, 257, 3)}
    assert len(names) <= 9


def test_the_engine_counts_rows_fill_requests_and_seconds() -> None:
    async def work(engine: StepEngine) -> EngineStats:
        stats = engine.stats
        for each in (stats.step_seconds, stats.batch_fill, stats.batch_requests):
            each.wanted = True
        await asyncio.gather(*(engine.run(steps(3)) for _ in range(2)))
        return stats

    stats = on_engine(work, CountingNetworks(seconds=0.25), max_batch=8)
    assert stats.batch_rows.values() == {("net", "2"): 6}
    assert stats.batch_fill.take() == [(0.25, ("net", "2"))] * 3
    assert stats.batch_requests.take() == [(2, ("net",))] * 3
    assert stats.step_seconds.take() == [(0.25, ("net",))] * 3


def test_the_engine_counts_batches_that_fail() -> None:
    async def work(engine: StepEngine) -> StepEngine:
        runs = (engine.run(steps(3, network="broken")) for _ in range(2))
        ended = await asyncio.gather(*runs, return_exceptions=True)
        assert all(isinstance(each, RuntimeError) for each in ended)
        return engine

    stats = on_engine(work, CountingNetworks()).stats
    # Together once, then each alone.
    assert stats.batch_failures.values() == {("broken",): 3}
