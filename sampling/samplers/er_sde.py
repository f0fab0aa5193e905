"""Extended reverse-time SDE solvers (arXiv 2309.06169)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from sampling.samplers.base import Eval, Run, Steps, distinct

_QUADRATURE_POINTS = 200


def er_sde(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """ER-SDE-Solver-3 (VE): algorithm 3 of the paper, its integrals over the step as sums of 200
    points. ``D1`` and ``D2`` are D's divided differences."""
    levels = distinct(sigmas)
    denoised_old: torch.Tensor | None = None
    D1_old: torch.Tensor | None = None
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        denoised, _ = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        f_next = _noise_scale(sigma_next)
        r = f_next / _noise_scale(sigma)
        step = sigma_next - sigma
        x = r * x + (1 - r) * denoised
        if denoised_old is not None:
            width = -step / _QUADRATURE_POINTS
            points = [sigma_next + k * width for k in range(_QUADRATURE_POINTS)]
            S = math.fsum(1 / _noise_scale(v) for v in points) * width
            D1 = (denoised - denoised_old) / (sigma - levels[i - 1])
            x = x + (step + S * f_next) * D1
            if D1_old is not None:
                T = math.fsum((v - sigma) / _noise_scale(v) for v in points) * width
                D2 = (D1 - D1_old) / ((sigma - levels[i - 2]) / 2)
                x = x + (step**2 / 2 + T * f_next) * D2
            D1_old = D1
        x = x + max(sigma_next**2 - (sigma * r) ** 2, 0.0) ** 0.5 * run.noise()
        denoised_old = denoised
    return x


def _noise_scale(sigma: float) -> float:
    """φ(σ) of the paper's ER SDE 5; decides how much noise a step renews."""
    return sigma * (math.exp(sigma**0.3) + 10)
