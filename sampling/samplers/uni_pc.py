"""UniPC, a unified predictor-corrector (arXiv 2302.04867), multistep in data prediction.

The paper's variance-preserving process only scales x, so the steps are written in σ. λ = −ln σ;
h a step in it; D the denoised prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from sampling.samplers.base import Eval, Run, Steps, distinct
from sampling.samplers.integrals import phi

_ORDER = 3
_LAST_SIGMA = 0.001
"""Replaces a final σ of 0, where λ is infinite."""


def uni_pc(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """UniPC-3 with B₁(h) = h: algorithms 7 and 8 of the paper."""
    return _uni_pc(x, sigmas, lambda z: z)


def uni_pc_bh2(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """UniPC-3 with B₂(h) = e^h − 1."""
    return _uni_pc(x, sigmas, math.expm1)


def _uni_pc(x: torch.Tensor, sigmas: Sequence[float], B: Callable[[float], float]) -> Steps:
    levels = distinct(sigmas)
    if levels[-1] == 0:
        levels[-1] = _LAST_SIGMA
    steps = len(levels) - 1
    denoised, _ = yield Eval(x, levels[0])
    if steps == 1:  # of order 0 in the reference: x stays, for the pipeline that goes on with it
        return x
    predictions = [denoised]  # newest first
    for i in range(1, steps + 1):
        order = min(i, _ORDER, steps + 1 - i)
        sigma, sigma_next = levels[i - 1], levels[i]
        h = math.log(sigma / sigma_next)
        r = [math.log(sigma / levels[i - 1 - k]) / h for k in range(1, order)]
        differences = [
            (older - denoised) / r_k for older, r_k in zip(predictions[1:], r, strict=False)
        ]
        base = (sigma_next / sigma) * x - math.expm1(-h) * denoised
        x = _corrected(base, B(-h), _predictor_weights(r, h, B), differences)
        if i == steps:
            break
        predicted, _ = yield Eval(x, sigma_next)
        differences.append(predicted - denoised)
        x = _corrected(base, B(-h), _corrector_weights(r, h, B), differences)
        predictions = [predicted, *predictions[: _ORDER - 1]]
        denoised = predicted
    return x


def _corrected(
    base: torch.Tensor,
    B_h: float,
    weights: Sequence[float],
    differences: Sequence[torch.Tensor],
) -> torch.Tensor:
    """The first-order step and the weighted differences of D."""
    for weight, difference in zip(weights, differences, strict=True):
        base = base - B_h * weight * difference
    return base


def _predictor_weights(r: Sequence[float], h: float, B: Callable[[float], float]) -> list[float]:
    """ρ of UniP for points at r·h; the order is one more than their number."""
    return [0.5] if len(r) == 1 else _solution(r, h, B)


def _corrector_weights(r: Sequence[float], h: float, B: Callable[[float], float]) -> list[float]:
    """ρ of UniC for points at r·h and at h; the order is their number."""
    return _solution([*r, 1.0], h, B) if r else [0.5]


def _solution(r: Sequence[float], h: float, B: Callable[[float], float]) -> list[float]:
    """ρ in Σₖ rₖⁿ⁻¹ρₖ = n!·h·φₙ₊₁(h)/B(h), n = 1 …, with −h for data prediction: equation 5 of
    the paper."""
    if not r:
        return []
    powers = range(len(r))
    matrix = [[r_k**n for r_k in r] for n in powers]
    wanted = [math.factorial(n + 1) * -h * phi(n + 2, -h) / B(-h) for n in powers]
    return [float(rho) for rho in np.linalg.solve(matrix, wanted)]
