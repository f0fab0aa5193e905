"""Samplers on a model with an exact answer."""

from __future__ import annotations

import math

import pytest
import torch

from sampling.samplers import SAMPLERS
from sampling.schedulers import karras_between
from segs_client.contract import SamplerName
from tests.sampling.analytic import exact_end, run

SPREAD = 0.7
ORDERS = {"euler": 1, "heun": 2, "dpmpp_2m": 2}
STOCHASTIC = ("euler_ancestral", "dpmpp_2m_sde")


def levels(steps: int, sigma_min: float, sigma_max: float) -> list[float]:
    """Karras levels without the final zero."""
    sigmas: list[float] = karras_between(steps + 1, sigma_min, sigma_max)[:-1].double().tolist()
    return sigmas


def error_after(name: str, steps: int) -> float:
    sigmas = levels(steps, 0.05, 10.0)
    x = torch.tensor([[10.0]], dtype=torch.float64)
    end, _ = run(name, x, sigmas, SPREAD)
    return float((end - exact_end(x, sigmas[0], sigmas[-1], SPREAD)).abs())


def test_every_name_of_the_contract_is_there() -> None:
    assert set(SAMPLERS) == set(SamplerName.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_order_of_convergence(name: str, order: int) -> None:
    rate = math.log2(error_after(name, 64) / error_after(name, 128))
    assert rate == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_noise_keeps_the_distribution(name: str) -> None:
    """Started from N(0, spread² + σ²), the end has the data's spread."""
    sigmas = levels(200, 0.03, 10.0)
    start = torch.randn(10_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    end, _ = run(name, start * math.hypot(SPREAD, sigmas[0]), sigmas, SPREAD, seed=2)
    assert float(end.std()) == pytest.approx(math.hypot(SPREAD, sigmas[-1]), rel=0.03)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_report_is_at_the_last_level(name: str) -> None:
    sigmas = [*levels(5, 0.05, 10.0), 0.0]
    end, asked = run(name, torch.ones(1, 4, 2, 2), sigmas, SPREAD)
    reports = [question.sigma for question in asked if question.reports]
    assert reports == sigmas[:-1]
    assert end.shape == (1, 4, 2, 2)
    assert torch.isfinite(end).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_same_seed_same_path(name: str) -> None:
    sigmas = [*levels(6, 0.05, 10.0), 0.0]
    ends = [run(name, torch.ones(1, 4, 3, 5), sigmas, SPREAD, seed=seed)[0] for seed in (3, 3, 4)]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2]) == (name not in STOCHASTIC)
