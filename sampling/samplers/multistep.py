"""Linear multistep methods: the slope d = (x − D)/σ extrapolated from the last steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from sampling.samplers.base import Eval, Run, Steps, derivative, distinct
from sampling.samplers.integrals import integral, lagrange_basis

_ADAMS_BASHFORTH = (
    (1,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""For each order the weights of d, newest first."""


def lms(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """Adams–Bashforth for steps of any length, order 4: the integral over the step of the
    polynomial in σ through the last d (k-diffusion)."""
    levels = distinct(sigmas)
    slopes: list[torch.Tensor] = []  # newest first
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        denoised, _ = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        slopes = [derivative(x, denoised, sigma), *slopes[:3]]
        nodes = [levels[i - k] - sigma for k in range(len(slopes))]
        for basis, d in zip(lagrange_basis(nodes), slopes, strict=True):
            x = x + integral(basis, sigma_next - sigma) * d
    return x


def ipndm(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """Improved PNDM (arXiv 2204.13902, section 3.2; after diff-sampler): Adams–Bashforth of
    order 4 with the weights of equal steps, begun at lower orders."""
    slopes: list[torch.Tensor] = []  # newest first
    for sigma, sigma_next in pairwise(sigmas):
        denoised, _ = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        slopes = [derivative(x, denoised, sigma), *slopes[:3]]
        weights = _ADAMS_BASHFORTH[len(slopes) - 1]
        for weight, d in zip(weights, slopes, strict=True):
            x = x + (sigma_next - sigma) * weight * d
    return x


def ipndm_v(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """Improved PNDM with diff-sampler's weights for steps of any length, order 4.

    Its formulas are kept as they are; for unequal steps the third difference's weight is not
    that of Adams–Bashforth, which :func:`lms` has.
    """
    levels = distinct(sigmas)
    slopes: list[torch.Tensor] = []  # newest first
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        denoised, _ = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        slopes = [derivative(x, denoised, sigma), *slopes[:3]]
        steps = [levels[i + 1 - k] - levels[i - k] for k in range(len(slopes))]
        for weight, d in zip(_variable_weights(steps), slopes, strict=True):
            x = x + steps[0] * weight * d
    return x


def _variable_weights(steps: Sequence[float]) -> list[float]:
    """The weights of d, newest first, for the step h and those before it: ``ipndm_v`` of
    diff-sampler (Apache-2.0)."""
    h, *before = steps
    if not before:
        return [1.0]
    h1 = before[0]
    weights = [1 + h / h1 / 2, -h / h1 / 2]
    if len(before) == 1:
        return weights
    h2 = before[1]
    ratio = h1 / h2
    third = (1 - h / (3 * (h + h1)) * (h * (h + h1)) / (h1 * (h1 + h2))) / 2
    weights = [weights[0] + third, weights[1] - (1 + ratio) * third, ratio * third]
    if len(before) == 2:
        return weights
    h3 = before[2]
    fourth = (1 - h / (3 * (h + h1))) / 2
    fourth += (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
    fourth *= h * (h + h1) * (h + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
    ratio_2 = h1 * (h1 + h2) / (h2 * (h2 + h3))
    return [
        weights[0] + fourth,
        weights[1] - (1 + ratio + ratio_2) * fourth,
        weights[2] + (ratio + ratio_2 * (1 + h2 / h3)) * fourth,
        -ratio_2 * ratio * fourth,
    ]


def deis(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """DEIS, order 3, the paper's t-AB form (arXiv 2204.13902), after diff-sampler: the slope is a
    polynomial in the time t of a VP process, integrated over the step numerically."""
    levels = distinct(sigmas)
    times = [_vp_time(sigma) for sigma in levels]
    slopes: list[torch.Tensor] = []  # newest first
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        denoised, _ = yield Eval(x, sigma)
        slopes = [derivative(x, denoised, sigma), *slopes[:2]]
        if sigma_next == 0 or len(slopes) == 1:
            x = x + slopes[0] * (sigma_next - sigma)
            continue
        nodes = [times[i - k] for k in range(len(slopes))]
        for weight, d in zip(_deis_weights(nodes, times[i + 1]), slopes, strict=True):
            x = x + weight * d
    return x


def _vp_line() -> tuple[float, float]:
    """β_d and β_min of the VP process with σ(0.001) = 0.002 and σ(1) = 80, where
    ln(σ² + 1) = ½β_d·t² + β_min·t (arXiv 2206.00364, table 1)."""
    low, high, epsilon = math.log(0.002**2 + 1), math.log(80.0**2 + 1), 0.001
    beta_d = 2 * (low / epsilon - high) / (epsilon - 1)
    return beta_d, high - beta_d / 2


_BETA_D, _BETA_MIN = _vp_line()
_QUADRATURE_POINTS = 10_000


def _vp_time(sigma: float) -> float:
    """t of σ in the VP process."""
    return (math.sqrt(_BETA_MIN**2 + 2 * _BETA_D * math.log(sigma**2 + 1)) - _BETA_MIN) / _BETA_D


def _deis_weights(nodes: Sequence[float], t_next: float) -> list[float]:
    """∫ dσ/dt·ℓⱼ(t) dt from the first node to ``t_next``, ℓ the Lagrange basis on the nodes; as
    the reference sums it, on 10,000 points."""
    t = np.linspace(nodes[0], t_next, _QUADRATURE_POINTS)
    log_alpha = -_BETA_D * t**2 / 2 - _BETA_MIN * t
    slope = (_BETA_D * t + _BETA_MIN) / 2 / np.sqrt(np.exp(log_alpha) * -np.expm1(log_alpha))
    interval = (t_next - nodes[0]) / _QUADRATURE_POINTS
    return [float((slope * basis(t)).sum() * interval) for basis in lagrange_basis(nodes)]
