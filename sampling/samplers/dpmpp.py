"""DPM-Solver++ in data prediction (arXiv 2211.01095), after k-diffusion (MIT).

h = ln(σ/σ′) is the step in log-SNR/2; D the denoised prediction, U the negative's own, which
the forms named ``cfg_pp`` use as CFG++ does (arXiv 2406.08070).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from sampling.samplers.base import Eval, Run, Steps, ancestral, distinct


def dpmpp_2m(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """DPM-Solver++(2M): algorithm 2 of the paper."""
    previous: tuple[torch.Tensor, float] | None = None  # D and h of the last step
    for sigma, sigma_next in pairwise(distinct(sigmas)):
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


def dpmpp_2m_cfg_pp(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """DPM-Solver++(2M) in CFG++: the slope and the older prediction are the negative's. A step of
    length 0 moves x too, by D − U."""
    previous: tuple[torch.Tensor, float] | None = None  # U and h of the last step
    for sigma, sigma_next in pairwise(sigmas):
        denoised, uncond = yield Eval(x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        h = math.log(sigma / sigma_next)
        x = denoised + (sigma_next / sigma) * (x - uncond)
        if previous is not None:
            uncond_old, h_last = previous
            x = x - math.expm1(-h) * (denoised - uncond_old) * (h / (2 * h_last))
        if h > 0:
            previous = uncond, h
    return x


def dpmpp_2s_ancestral(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """DPM-Solver++(2S), algorithm 1 of the paper with r = ½, below the next level, with fresh
    noise up to it (k-diffusion)."""
    return _dpmpp_2s_ancestral(x, sigmas, run, cfg_pp=False)


def dpmpp_2s_ancestral_cfg_pp(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """As :func:`dpmpp_2s_ancestral`, both updates from x + (D − U), the second with the U of the
    midpoint."""
    return _dpmpp_2s_ancestral(x, sigmas, run, cfg_pp=True)


def _dpmpp_2s_ancestral(
    x: torch.Tensor, sigmas: Sequence[float], run: Run, *, cfg_pp: bool
) -> Steps:
    for sigma, sigma_next in pairwise(sigmas):
        denoised, uncond = yield Eval(x, sigma)
        down, up = ancestral(sigma, sigma_next)
        if down == 0:
            x = denoised
        else:
            h = math.log(sigma / down)
            middle = math.sqrt(sigma * down)
            start = x + (denoised - uncond) if cfg_pp else x
            x_middle = (middle / sigma) * start - math.expm1(-h / 2) * denoised
            middle_denoised, uncond = yield Eval(x_middle, middle, reports=False)
            start = x + (denoised - uncond) if cfg_pp else x
            x = (down / sigma) * start - math.expm1(-h) * middle_denoised
        if sigma_next > 0:
            x = x + run.noise() * up
    return x
