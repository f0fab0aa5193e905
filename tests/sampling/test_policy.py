"""Whose turn it is and who shares a batch, told without an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch

from sampling.costs import CostModel
from sampling.policy import Requester, choose_batch, leading_call
from sampling.program import NetworkCall

ROW = 4
"""Elements of a row."""


@dataclass(frozen=True)
class Rows:
    most: int

    def batch_limit(self, row_shape: Sequence[int]) -> int:
        return self.most


@dataclass(frozen=True)
class Asked:
    requester: Requester
    call: NetworkCall
    arrival: int


def asked(requester: Requester, arrival: int, rows: int = 2) -> Asked:
    return Asked(requester, NetworkCall("net", {"x": torch.zeros(rows, ROW)}), arrival)


def cpu() -> CostModel:
    """Each row costs its time."""
    costs = CostModel()
    for rows in (1, 2, 4, 8, 16, 32):
        costs.observe("net", rows * ROW, 0.01 * rows)
    return costs


def gpu() -> CostModel:
    """16 rows cost what 1 does."""
    costs = CostModel()
    for rows in (1, 2, 4, 8, 16, 32):
        costs.observe("net", rows * ROW, 0.02 * max(1, rows / 16))
    return costs


def chosen(
    group: list[Asked], costs: CostModel, limit: int = 16, active: list[Requester] | None = None
) -> list[Asked]:
    leader = leading_call(group)
    everyone = active or list({one.requester: None for one in group})
    return choose_batch(group, leader, {"net": Rows(limit)}, costs, everyone)


def test_the_least_served_leads_and_among_equals_who_came_first() -> None:
    served, fresh = Requester(), Requester()
    served.charge(1.0)
    calls = [asked(served, 1), asked(fresh, 3), asked(fresh, 2)]
    assert leading_call(calls) is calls[2]


def test_priority_weighs_what_was_had() -> None:
    plain, important = Requester(weight=1.0), Requester(weight=4.0)
    plain.charge(1.0)
    important.charge(2.0)
    assert leading_call([asked(plain, 1), asked(important, 2)]).requester is important


@pytest.mark.parametrize("costs", [cpu(), gpu()], ids=["cpu", "gpu"])
def test_equals_fill_the_batch(costs: CostModel) -> None:
    group = [asked(Requester(), arrival) for arrival in range(8)]
    assert chosen(group, costs) == group


def test_a_large_request_takes_as_much_as_a_small_one_where_rows_cost_time() -> None:
    large, small = Requester(), Requester()
    large.charge(1.0)
    group = [asked(large, arrival) for arrival in range(60)] + [asked(small, 60)]
    batch = chosen(group, cpu())
    assert batch[0].requester is small
    assert [one.requester for one in batch[1:]] == [large]


def test_a_large_request_fills_what_is_free() -> None:
    large, small = Requester(), Requester()
    large.charge(1.0)
    group = [asked(large, arrival) for arrival in range(60)] + [asked(small, 60)]
    batch = chosen(group, gpu())
    assert batch[0].requester is small
    assert len(batch) == 8


def test_who_works_elsewhere_counts_too() -> None:
    """A lone call in its group leaves the others their share of the device."""
    large, small = Requester(), Requester()
    group = [asked(large, arrival) for arrival in range(60)]
    assert len(chosen(group, cpu(), active=[large, small])) == 2
    assert len(chosen(group, cpu(), active=[large])) == 2


def test_requesters_take_turns() -> None:
    first, second = Requester(), Requester()
    group = [asked(first, 1), asked(first, 2), asked(first, 3), asked(second, 4)]
    batch = chosen(group, gpu(), limit=6)
    assert [one.arrival for one in batch] == [1, 4, 2]


def test_the_limit_holds_and_calls_stay_whole() -> None:
    group = [asked(Requester(), arrival, rows=2) for arrival in range(5)]
    assert len(chosen(group, gpu(), limit=5)) == 2


def test_a_call_over_the_limit_goes_alone() -> None:
    group = [asked(Requester(), 1, rows=9), asked(Requester(), 2, rows=1)]
    assert chosen(group, gpu(), limit=4) == group[:1]


def test_the_first_batch_of_a_network_is_the_leaders_own() -> None:
    group = [asked(Requester(), arrival) for arrival in range(3)]
    assert chosen(group, CostModel()) == group[:1]


def test_each_ones_first_call_is_let_in_however_dear_large_batches_are() -> None:
    costs = CostModel()
    costs.observe("net", 2 * ROW, 0.01)
    costs.observe("net", 16 * ROW, 0.5)
    group = [asked(Requester(), arrival) for arrival in range(8)]
    assert chosen(group, costs) == group


def test_a_lower_priority_waits_where_it_costs_a_higher_one_too_much() -> None:
    high, low = Requester(weight=4.0), [Requester(weight=0.25) for _ in range(8)]
    group = [asked(high, 0), *(asked(one, 1 + n) for n, one in enumerate(low))]
    assert chosen(group, cpu()) == group[:1]
    assert len(chosen(group, gpu())) == 8
