"""The measured curve of a network's batches."""

from __future__ import annotations

import pytest

from sampling.costs import CostModel


def test_nothing_is_known_of_an_unknown_network() -> None:
    costs = CostModel()
    assert costs.batch_s("net", 8) is None
    assert costs.known_batch_s("net", 8) is None
    assert costs.shared_s("net", 8) is None


def test_between_measured_sizes_a_line_and_beyond_them_one_through_zero() -> None:
    costs = CostModel()
    costs.observe("net", 100, 0.1)
    costs.observe("net", 200, 0.3)
    assert costs.batch_s("net", 150) == pytest.approx(0.2)
    assert costs.batch_s("net", 50) == pytest.approx(0.05)
    assert costs.batch_s("net", 400) == pytest.approx(0.6)


def test_one_slow_batch_means_nothing() -> None:
    costs = CostModel()
    for seconds in (0.1, 0.1, 5.0, 0.1):
        costs.observe("net", 100, seconds)
    assert costs.batch_s("net", 100) == pytest.approx(0.1)


def test_a_lasting_change_is_learnt() -> None:
    costs = CostModel()
    for seconds in [0.1] * 20 + [0.2] * 20:
        costs.observe("net", 100, seconds)
    assert costs.batch_s("net", 100) == pytest.approx(0.2)


def test_far_from_what_was_measured_nothing_is_known() -> None:
    costs = CostModel()
    costs.observe("net", 100, 0.1)
    assert costs.known_batch_s("net", 401) is None
    assert costs.known_batch_s("net", 24) is None
    assert costs.known_batch_s("net", 400) == pytest.approx(0.4)


def test_sharing_costs_what_the_best_batch_costs() -> None:
    costs = CostModel()
    costs.observe("net", 100, 0.1)
    costs.observe("net", 800, 0.1)
    assert costs.shared_s("net", 100) == pytest.approx(0.0125)
