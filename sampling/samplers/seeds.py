"""SEEDS, exponential integrators for the reverse SDE (arXiv 2305.14267), η = 1.

h = ln(σ/σ′); D the denoised prediction. Stages share one noise: what a stage added decays to the
next, and fresh noise joins it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from sampling.samplers.base import Eval, Run, Steps
from sampling.samplers.integrals import phi


def seeds_2(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """SEEDS-2 with the midpoint in log σ: algorithm 2 of the paper in data prediction."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised, _ = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        h = math.log(sigma / sigma_next)
        noise = _carried_on(None, h / 2, run)
        x_2 = _stage(x, sigma, h / 2, -math.expm1(-h) * denoised, noise)
        denoised, _ = yield Eval(x_2, sigma * math.exp(-h / 2), reports=False)
        noise = _carried_on(noise, h / 2, run)
        x = _stage(x, sigma, h, -math.expm1(-2 * h) * denoised, noise)
    return x


def seeds_3(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """SEEDS-3 with r₁ = ⅓, r₂ = ⅔: algorithm 3 of the paper in data prediction."""
    r1, r2 = 1 / 3, 2 / 3
    for sigma, sigma_next in pairwise(sigmas):
        denoised, _ = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        h = math.log(sigma / sigma_next)
        noise = _carried_on(None, r1 * h, run)
        x_2 = _stage(x, sigma, r1 * h, -math.expm1(-2 * r1 * h) * denoised, noise)
        denoised_2, _ = yield Eval(x_2, sigma * math.exp(-r1 * h), reports=False)
        noise = _carried_on(noise, (r2 - r1) * h, run)
        weight = 2 * r2 * h * phi(2, -2 * r2 * h) * r2 / r1
        drift = -math.expm1(-2 * r2 * h) * denoised + weight * (denoised_2 - denoised)
        x_3 = _stage(x, sigma, r2 * h, drift, noise)
        denoised_3, _ = yield Eval(x_3, sigma * math.exp(-r2 * h), reports=False)
        noise = _carried_on(noise, (1 - r2) * h, run)
        weight = 2 * h * phi(2, -2 * h) / r2
        drift = -math.expm1(-2 * h) * denoised + weight * (denoised_3 - denoised)
        x = _stage(x, sigma, h, drift, noise)
    return x


def _carried_on(noise: torch.Tensor | None, distance: float, run: Run) -> torch.Tensor:
    """The noise of the next stage, ``distance`` further in log σ, in units of its σ."""
    fresh = math.sqrt(-math.expm1(-2 * distance)) * run.noise()
    return fresh if noise is None else math.exp(-distance) * noise + fresh


def _stage(
    x: torch.Tensor, sigma: float, distance: float, drift: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """x at ``distance`` in log σ after σ."""
    return math.exp(-2 * distance) * x + drift + sigma * math.exp(-distance) * noise
