"""Euler's method and its relatives on the probability-flow ODE (arXiv 2206.00364)."""

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
