"""Euler's method and its relatives on the probability-flow ODE (arXiv 2206.00364).

The forms named ``cfg_pp`` are CFG++ (arXiv 2406.08070): the step starts from the guided D but
goes along the slope that the negative's own prediction U gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from sampling.samplers.base import Eval, Run, Steps, ancestral, derivative


def euler(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """Euler's method: algorithm 2 of arXiv 2206.00364 without churn and correction."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised, _ = yield Eval(x, sigma)
        x = x + derivative(x, denoised, sigma) * (sigma_next - sigma)
    return x


def euler_cfg_pp(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """Euler's method in CFG++: algorithm 2 of arXiv 2406.08070."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised, uncond = yield Eval(x, sigma)
        x = denoised + derivative(x, uncond, sigma) * sigma_next
    return x


def euler_ancestral(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """Euler steps below the next level, with fresh noise up to it (k-diffusion)."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised, _ = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        down, up = ancestral(sigma, sigma_next)
        x = x + derivative(x, denoised, sigma) * (down - sigma) + run.noise() * up
    return x


def euler_ancestral_cfg_pp(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """Ancestral Euler steps in CFG++."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised, uncond = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        down, up = ancestral(sigma, sigma_next)
        x = denoised + derivative(x, uncond, sigma) * down + run.noise() * up
    return x


def heun(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """Heun's second-order method: algorithm 1 of arXiv 2206.00364 without churn."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised, _ = yield Eval(x, sigma)
        d = derivative(x, denoised, sigma)
        x_euler = x + d * (sigma_next - sigma)
        if sigma_next == 0:
            x = x_euler
            continue
        denoised, _ = yield Eval(x_euler, sigma_next, reports=False)
        d_next = derivative(x_euler, denoised, sigma_next)
        x = x + (d + d_next) / 2 * (sigma_next - sigma)
    return x


def heunpp2(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """Heun++: the slopes at the next two levels join in, weighted by σ′/σ₀ and σ″/σ₀; one of
    them before the last level, none at it."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised, _ = yield Eval(x, sigma)
        d = derivative(x, denoised, sigma)
        ahead = sigmas[i + 1 : -1][:2]
        weights = [level / ((len(ahead) + 1) * sigmas[0]) for level in ahead]
        slope = (1 - sum(weights)) * d
        x_ahead, level_before, d_ahead = x, sigma, d
        for level, weight in zip(ahead, weights, strict=True):
            x_ahead = x_ahead + d_ahead * (level - level_before)
            denoised, _ = yield Eval(x_ahead, level, reports=False)
            d_ahead = derivative(x_ahead, denoised, level)
            slope = slope + weight * d_ahead
            level_before = level
        x = x + slope * (sigma_next - sigma)
    return x
