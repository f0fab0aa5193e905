"""Gradient estimation (arXiv 2306.04848): sampling as approximate gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from sampling.samplers.base import Eval, Run, Steps, derivative

_GAMMA = 2.0


def gradient_estimation(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """Algorithm 2 of the paper with γ = 2: Euler along γd − (γ−1)d_old."""
    return _gradient_estimation(x, sigmas, cfg_pp=False)


def gradient_estimation_cfg_pp(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """As :func:`gradient_estimation`, from D along the slopes of the negative's own prediction
    (CFG++, arXiv 2406.08070)."""
    return _gradient_estimation(x, sigmas, cfg_pp=True)


def _gradient_estimation(x: torch.Tensor, sigmas: Sequence[float], *, cfg_pp: bool) -> Steps:
    d_old: torch.Tensor | None = None
    for sigma, sigma_next in pairwise(sigmas):
        denoised, uncond = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        d = derivative(x, uncond if cfg_pp else denoised, sigma)
        x = denoised + sigma_next * d
        if d_old is not None:
            x = x + (_GAMMA - 1) * (d - d_old) * (sigma_next - sigma)
        d_old = d
    return x
