"""DPM-Solver in noise prediction (arXiv 2206.00927), after k-diffusion (MIT).

ε = (x − D)/σ; t = −ln σ is the paper's λ, and h a step in it. φ as in
:mod:`sampling.samplers.integrals`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from itertools import pairwise

import torch

from sampling.samplers.base import Eval, Prediction, Run, Steps, ancestral, derivative
from sampling.samplers.integrals import phi

_MAX_ATTEMPTS = 1000
"""Attempts of one adaptive run; tens are usual."""
_AT_END = 1e-5
"""Distance in t at which such a run is at its end."""


class NotConvergingError(Exception):
    """An adaptive run does not end: the model's predictions are not those of an ODE."""


def dpm_2(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """The midpoint method, the midpoint taken in log σ (k-diffusion, after DPM-Solver-2)."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised, _ = yield Eval(x, sigma)
        x = yield from _midpoint(x, denoised, sigma, sigma_next)
    return x


def dpm_2_ancestral(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """As :func:`dpm_2` below the next level, with fresh noise up to it (k-diffusion)."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised, _ = yield Eval(x, sigma)
        down, up = ancestral(sigma, sigma_next)
        x = yield from _midpoint(x, denoised, sigma, down)
        if sigma_next > 0:
            x = x + run.noise() * up
    return x


def _midpoint(x: torch.Tensor, denoised: torch.Tensor, sigma: float, target: float) -> Steps:
    d = derivative(x, denoised, sigma)
    if target > 0:
        middle = math.sqrt(sigma * target)
        x_middle = x + d * (middle - sigma)
        denoised, _ = yield Eval(x_middle, middle, reports=False)
        d = derivative(x_middle, denoised, middle)
    return x + d * (target - sigma)


def dpm_fast(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """DPM-Solver-fast (the paper's section 3.4): as many model calls as steps, in equal
    intervals of t of order 3 but for the last ones."""
    t_start, t_end = _ends(sigmas)
    calls = len(sigmas) - 1
    intervals = calls // 3 + 1
    rest = [2, 1] if calls % 3 == 0 else [calls % 3]
    h = (t_end - t_start) / intervals
    for i, order in enumerate([3] * (intervals - len(rest)) + rest):
        t = t_start + i * h
        eps = yield from _epsilon(x, t, reports=True)
        if order == 1:
            x = _order_1(x, eps, t, h)
        elif order == 2:
            eps_half = yield from _epsilon(_order_1(x, eps, t, h / 2), t + h / 2)
            x = _order_2(x, eps, eps_half, t, h, 1 / 2)
        else:
            x, _ = yield from _order_3(x, eps, t, h)
    return x


def dpm_adaptive(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """DPM-Solver-23 with adaptive steps (the paper's appendix C) under k-diffusion's controller;
    of ``sigmas`` only the ends are used. If these are one level, as in a single step to 0, x is
    there already and the model is not called.

    Raises:
        NotConvergingError: not at the end after 1000 attempts.
    """
    rtol, atol, h = 0.05, 0.0078, 0.05
    t, t_end = _ends(sigmas)
    x_previous = x
    for _ in range(_MAX_ATTEMPTS):
        if t >= t_end - _AT_END:
            return x
        step = min(h, t_end - t)
        eps = yield from _epsilon(x, t, reports=True)
        x_high, eps_third = yield from _order_3(x, eps, t, step)
        x_low = _order_2(x, eps, eps_third, t, step, 1 / 3)
        delta = (rtol * torch.maximum(x_low.abs(), x_previous.abs())).clamp(min=atol)
        error = float(((x_low - x_high) / delta).square().mean().sqrt())
        factor = 1 + math.atan((1 / (error + 1e-8)) ** (1 / 3) - 1)
        if factor >= 0.81:
            x, x_previous, t = x_high, x_low, t + step
        h *= factor
    raise NotConvergingError(
        f"sampler dpm_adaptive: sigma {math.exp(-t):.4g} after {_MAX_ATTEMPTS} attempts, "
        f"{math.exp(-t_end):.4g} wanted"
    )


def _ends(sigmas: Sequence[float]) -> tuple[float, float]:
    """t of the first σ and of the last that is not 0."""
    return -math.log(sigmas[0]), -math.log(sigmas[-1] or sigmas[-2])


def _epsilon(
    x: torch.Tensor, t: float, *, reports: bool = False
) -> Generator[Eval, Prediction, torch.Tensor]:
    sigma = math.exp(-t)
    denoised, _ = yield Eval(x, sigma, reports)
    return derivative(x, denoised, sigma)


def _order_1(x: torch.Tensor, eps: torch.Tensor, t: float, h: float) -> torch.Tensor:
    """DPM-Solver-1: equation 3.7 of the paper."""
    return x - math.exp(-t - h) * math.expm1(h) * eps


def _order_2(
    x: torch.Tensor, eps: torch.Tensor, eps_r: torch.Tensor, t: float, h: float, r: float
) -> torch.Tensor:
    """DPM-Solver-2, ``eps_r`` being ε at t + rh: algorithm 4 of the paper."""
    slope = math.exp(-t - h) * math.expm1(h) / (2 * r)
    return _order_1(x, eps, t, h) - slope * (eps_r - eps)


def _order_3(
    x: torch.Tensor, eps: torch.Tensor, t: float, h: float
) -> Generator[Eval, Prediction, tuple[torch.Tensor, torch.Tensor]]:
    """DPM-Solver-3 with r₁ = ⅓, r₂ = ⅔: algorithm 2 of the paper. Returns x and ε at t + r₁h."""
    r1, r2 = 1 / 3, 2 / 3
    t1, t2 = t + r1 * h, t + r2 * h
    eps_1 = yield from _epsilon(_order_1(x, eps, t, r1 * h), t1)
    slope = math.exp(-t2) * (r2 / r1) * r2 * h * phi(2, r2 * h)
    eps_2 = yield from _epsilon(_order_1(x, eps, t, r2 * h) - slope * (eps_1 - eps), t2)
    slope = math.exp(-t - h) / r2 * h * phi(2, h)
    return _order_1(x, eps, t, h) - slope * (eps_2 - eps), eps_1
