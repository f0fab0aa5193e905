"""RES, the exponential multistep method of second order (arXiv 2308.02157).

t = −ln σ; H is the step in it; D the denoised prediction. In the forms named ``cfg_pp`` the
negative's own prediction U takes D's place and x is moved by D − U first (CFG++, arXiv
2406.08070).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from sampling.samplers.base import Eval, Run, Steps, ancestral
from sampling.samplers.integrals import phi


def res_multistep(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """RES, multistep: algorithm 2 of the paper without noise."""
    return _res_multistep(x, sigmas, run, eta=0.0, cfg_pp=False)


def res_multistep_cfg_pp(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """RES, multistep, in CFG++."""
    return _res_multistep(x, sigmas, run, eta=0.0, cfg_pp=True)


def res_multistep_ancestral(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """RES, multistep, below the next level, with fresh noise up to it."""
    return _res_multistep(x, sigmas, run, eta=1.0, cfg_pp=False)


def res_multistep_ancestral_cfg_pp(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """As :func:`res_multistep_ancestral`, in CFG++."""
    return _res_multistep(x, sigmas, run, eta=1.0, cfg_pp=True)


class _Past(NamedTuple):
    model: torch.Tensor
    t: float
    t_down: float
    """Where the deterministic part of the step from t ended."""


def _res_multistep(
    x: torch.Tensor, sigmas: Sequence[float], run: Run, *, eta: float, cfg_pp: bool
) -> Steps:
    past: _Past | None = None
    for sigma, sigma_next in pairwise(sigmas):
        denoised, uncond = yield Eval(x, sigma)
        model = uncond if cfg_pp else denoised
        down, up = ancestral(sigma, sigma_next, eta) if sigma_next > 0 else (0.0, 0.0)
        if down in (0, sigma) or past is None:
            x = denoised + (down / sigma) * (x - model)
        else:
            t, t_next = -math.log(sigma), -math.log(down)
            H = t_next - t
            c = (past.t - past.t_down) / H
            b2 = phi(2, -H) / c
            b1 = phi(1, -H) - b2
            shifted = x + (denoised - model)
            x = math.exp(-H) * shifted + H * (b1 * model + b2 * past.model)
        if up > 0:
            x = x + run.noise() * up
        if down < sigma:  # a step of length 0 has no slope
            past = _Past(model, -math.log(sigma), -math.log(down)) if down > 0 else None
    return x
