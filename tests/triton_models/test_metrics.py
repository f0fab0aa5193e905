"""Publishing metrics: what Triton gets of what was counted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest

from sampling.statistics import Counter, Observations
from segs_client.contract import ErrorCode
from triton_models import environment
from triton_models.front_end_stats import FAILED, REFUSED, FrontEndStats
from triton_models.metrics import METRICS, Publisher, Source, start_publishing


@dataclass
class Calls:
    """What Triton got: (metric, labels, call, value)."""

    values: list[tuple[str, dict[str, str], str, float]] = field(default_factory=list)
    made: list[tuple[str, dict[str, str], list[float] | None]] = field(default_factory=list)

    def family(self, name: str) -> Family:
        return Family(name, self)

    def taken(self) -> list[tuple[str, dict[str, str], str, float]]:
        values, self.values = self.values, []
        return values


@dataclass
class Family:
    """As ``pb_utils.MetricFamily``."""

    name: str
    calls: Calls

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> Series:  # noqa: N802
        self.calls.made.append((self.name, labels, buckets))
        return Series(self, labels)


@dataclass
class Series:
    """As its ``Metric``."""

    family: Family
    labels: dict[str, str]

    def increment(self, value: float) -> None:
        self._add("increment", value)

    def set(self, value: float) -> None:
        self._add("set", value)

    def observe(self, value: float) -> None:
        self._add("observe", value)

    def _add(self, call: str, value: float) -> None:
        self.family.calls.values.append((self.family.name, self.labels, call, value))


def publisher(sources: Mapping[str, Source]) -> tuple[Publisher, Calls]:
    calls = Calls()
    return Publisher(calls.family, sources), calls


def test_counters_are_published_as_increments_and_only_when_they_moved() -> None:
    name, counter = "segs_segments_total", Counter([("failed",)])
    publishing, calls = publisher({name: counter.values})
    counter.add("enhanced", amount=3)
    publishing.publish()
    assert calls.taken() == [
        (name, {"status": "failed"}, "increment", 0),
        (name, {"status": "enhanced"}, "increment", 3),
    ]
    publishing.publish()
    assert calls.taken() == []
    counter.add("enhanced")
    counter.add("failed")
    publishing.publish()
    assert calls.taken() == [
        (name, {"status": "failed"}, "increment", 1),
        (name, {"status": "enhanced"}, "increment", 1),
    ]
    assert len(calls.made) == 2


def test_gauges_are_set_when_they_moved() -> None:
    values = iter([2.0, 2.0, 0.0])
    publishing, calls = publisher({"segs_live": lambda: {(): next(values)}})
    for _ in range(3):
        publishing.publish()
    assert calls.taken() == [("segs_live", {}, "set", 2), ("segs_live", {}, "set", 0)]


def test_measurements_are_published_one_by_one() -> None:
    name, seconds = "segs_stage_seconds", Observations()
    seconds.add(9.0, "encode")  # not read yet
    publishing, calls = publisher({name: seconds})
    seconds.add(0.5, "encode")
    seconds.add(0.25, "decode")
    publishing.publish()
    publishing.publish()
    assert calls.taken() == [
        (name, {"stage": "encode"}, "observe", 0.5),
        (name, {"stage": "decode"}, "observe", 0.25),
    ]
    assert [buckets for _, _, buckets in calls.made] == [list(METRICS[name].buckets)] * 2


def test_without_a_reader_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.METRICS, raising=False)
    seconds = Observations()
    start_publishing({"segs_stage_seconds": seconds})
    assert not seconds.wanted


def test_names_are_prometheus_own_style() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"segs_[a-z_]+", name)
        assert name.endswith("_total") == (metric.kind == "counter")
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert metric.meaning.endswith(".")
        assert list(metric.labels) != [] or metric.kind != "histogram"


def _counts(stats: FrontEndStats) -> dict[tuple[Any, ...], float]:
    counters = (stats.answered, stats.refused, stats.failed, stats.cancelled)
    values = {labels: value for each in counters for labels, value in each.values().items()}
    return {labels[1:]: value for labels, value in values.items() if value}


def test_a_front_end_counts_each_end_once() -> None:
    assert {*REFUSED, *FAILED, "CANCELLED"} == set(get_args(ErrorCode))
    stats = FrontEndStats("front")
    stats.seconds.wanted = True
    stats.ended(0.5)
    stats.ended(0.1, "UNAVAILABLE")
    stats.ended(0.1, "INTERNAL")
    stats.ended(0.1, "CANCELLED")
    stats.ended(0.1, "CANCELLED", by_call=True)
    expected = {(): 1, ("UNAVAILABLE",): 1, ("INTERNAL",): 1, ("gone",): 1, ("asked",): 1}
    assert _counts(stats) == expected
    assert stats.seconds.take() == [(0.5, ("front",)), *[(0.1, ("front",))] * 4]
