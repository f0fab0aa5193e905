"""Stochastic DPM-Solver++ (arXiv 2211.01095, appendix), after k-diffusion (MIT), η = 1.

h = ln(σ/σ′); D the denoised prediction. Noise comes from a Brownian path over σ. It spans the
whole schedule, but only the run for :func:`dpmpp_2m_sde_heun`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from sampling.noise import BrownianIncrement
from sampling.samplers.base import Eval, Run, Steps, ancestral, distinct
from sampling.samplers.integrals import phi


def dpmpp_sde(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """SDE-DPM-Solver++(2S) with the midpoint in log σ; both stages start from x."""
    brownian = run.brownian(*run.span)
    for sigma, sigma_next in pairwise(distinct(sigmas)):
        denoised, _ = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        middle = math.sqrt(sigma * sigma_next)
        down, up = ancestral(sigma, middle)
        x_middle = denoised + (down / sigma) * (x - denoised) + up * brownian(sigma, middle)
        denoised, _ = yield Eval(x_middle, middle, reports=False)
        down, up = ancestral(sigma, sigma_next)
        x = denoised + (down / sigma) * (x - denoised) + up * brownian(sigma, sigma_next)
    return x


def dpmpp_2m_sde(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """SDE-DPM-Solver++(2M) in the midpoint form: the difference weighs (1 − e^(−2h))/2."""
    return _dpmpp_2m_sde(x, sigmas, run.brownian(*run.span), lambda H: -math.expm1(-H) / 2)


def dpmpp_2m_sde_heun(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """SDE-DPM-Solver++(2M) in Heun's form: the difference weighs 1 − φ₁(−2h)."""
    brownian = run.brownian(min(sigma for sigma in sigmas if sigma > 0), max(sigmas))
    return _dpmpp_2m_sde(x, sigmas, brownian, lambda H: H * phi(2, -H))


def _dpmpp_2m_sde(
    x: torch.Tensor,
    sigmas: Sequence[float],
    brownian: BrownianIncrement,
    weight: Callable[[float], float],
) -> Steps:
    previous: tuple[torch.Tensor, float] | None = None  # D and h of the last step
    for sigma, sigma_next in pairwise(distinct(sigmas)):
        denoised, _ = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        h = math.log(sigma / sigma_next)
        x = denoised + math.exp(-2 * h) * (x - denoised)
        if previous is not None:
            denoised_old, h_last = previous
            x = x + weight(2 * h) * (denoised - denoised_old) * (h / h_last)
        x = x + _deviation(sigma_next, h) * brownian(sigma, sigma_next)
        previous = denoised, h
    return x


def dpmpp_3m_sde(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """SDE-DPM-Solver++(3M) (k-diffusion): divided differences of the last three D."""
    brownian = run.brownian(*run.span)
    past: list[tuple[torch.Tensor, float]] = []  # D and h of the last steps, newest first
    for sigma, sigma_next in pairwise(distinct(sigmas)):
        denoised, _ = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        h = math.log(sigma / sigma_next)
        H = 2 * h
        x = denoised + math.exp(-H) * (x - denoised)
        if past:
            denoised_1, h_1 = past[0]
            r0 = h_1 / h
            d1 = (denoised - denoised_1) / r0
            if len(past) > 1:
                denoised_2, h_2 = past[1]
                r1 = h_2 / h
                d2 = (d1 - (denoised_1 - denoised_2) / r1) / (r0 + r1)
                d1 = d1 + d2 * r0
                x = x + H * phi(3, -H) * d2
            x = x + H * phi(2, -H) * d1
        x = x + _deviation(sigma_next, h) * brownian(sigma, sigma_next)
        past = [(denoised, h), *past[:1]]
    return x


def _deviation(sigma_next: float, h: float) -> float:
    """Standard deviation of the noise that a step adds: σ′√(1 − e^(−2h))."""
    return sigma_next * math.sqrt(-math.expm1(-2 * h))
