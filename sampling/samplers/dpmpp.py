"""DPM-Solver++ in data prediction (arXiv 2211.01095), after k-diffusion (MIT).

h = ln(σ/σ′) is the step in log-SNR/2; D the denoised prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from sampling.samplers.base import Eval, Run, Steps


def dpmpp_2m(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """DPM-Solver++(2M): algorithm 2 of the paper."""
    previous: tuple[torch.Tensor, float] | None = None  # D and h of the last step
    for sigma, sigma_next in pairwise(sigmas):
        denoised, _ = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        h = math.log(sigma / sigma_next)
        target = denoised
        if previous is not None:
            denoised_old, h_last = previous
            r = h_last / h
            target = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * denoised_old
        x = (sigma_next / sigma) * x - math.expm1(-h) * target
        previous = denoised, h
    return x


def dpmpp_2m_sde(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """SDE-DPM-Solver++(2M), midpoint form, η = 1; the path spans the whole schedule."""
    brownian = run.brownian(run.schedule.sigma_min, run.schedule.sigma_max)
    previous: tuple[torch.Tensor, float] | None = None
    for sigma, sigma_next in pairwise(sigmas):
        denoised, _ = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        h = math.log(sigma / sigma_next)
        gain = -math.expm1(-2 * h)
        x = (sigma_next / sigma) * math.exp(-h) * x + gain * denoised
        if previous is not None:
            denoised_old, h_last = previous
            x = x + 0.5 * gain * (denoised - denoised_old) * (h / h_last)
        x = x + sigma_next * gain**0.5 * brownian(sigma, sigma_next)
        previous = denoised, h
    return x
