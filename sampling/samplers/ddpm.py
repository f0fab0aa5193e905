"""Samplers that add noise to each prediction: DDPM and latent consistency models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from sampling.samplers.base import Eval, Run, Steps, derivative


def ddpm(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """Ancestral sampling of DDPM, algorithm 2 of arXiv 2006.11239, on y = x/√(1+σ²).

    ᾱ = 1/(1+σ²); α is the ratio of two neighbouring ᾱ. Where σ′ = 0 the mean is D itself.
    """
    for sigma, sigma_next in pairwise(sigmas):
        denoised, _ = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        one_minus_bar = sigma**2 / (1 + sigma**2)
        one_minus_bar_next = sigma_next**2 / (1 + sigma_next**2)
        alpha = (1 + sigma_next**2) / (1 + sigma**2)
        epsilon = derivative(x, denoised, sigma)
        y = x / (1 + sigma**2) ** 0.5
        mean = (y - (1 - alpha) / one_minus_bar**0.5 * epsilon) / alpha**0.5
        deviation = ((1 - alpha) * one_minus_bar_next / one_minus_bar) ** 0.5
        x = (mean + deviation * run.noise()) * (1 + sigma_next**2) ** 0.5
    return x


def lcm(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """Multistep consistency sampling, algorithm 1 of arXiv 2303.01469: D with noise of the next
    level (latent consistency models, arXiv 2310.04378)."""
    for sigma, sigma_next in pairwise(sigmas):
        x, _ = yield Eval(x, sigma)
        if sigma_next > 0:
            x = x + sigma_next * run.noise()
    return x
