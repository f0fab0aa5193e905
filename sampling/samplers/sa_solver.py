"""SA-Solver, stochastic Adams (arXiv 2309.05019), in data prediction.

λ = −ln σ; h a step in it; τ how stochastic the step is: 0 the ODE, 1 the reverse SDE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from sampling.samplers.base import Eval, Run, Steps, distinct
from sampling.samplers.integrals import lagrange_basis, phi

_PREDICTOR_ORDER, _CORRECTOR_ORDER = 3, 4
_STOCHASTIC_SPAN = 0.2, 0.8
"""The part of the sampling in which τ = 1."""


def sa_solver(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """SA-Solver: algorithm 1 of the paper, predictor of order 3, corrector of order 4."""
    return _sa_solver(x, sigmas, run, evaluates_again=False)


def sa_solver_pece(x: torch.Tensor, sigmas: Sequence[float], run: Run) -> Steps:
    """As :func:`sa_solver`, with another model call after each correction (PECE)."""
    return _sa_solver(x, sigmas, run, evaluates_again=True)


@dataclass(frozen=True)
class _Step:
    """A step of the SDE from σ to σ′, begun at x; predictor and corrector share its noise."""

    x: torch.Tensor
    sigma: float
    sigma_next: float
    tau: float
    noise: torch.Tensor | None

    def end(self, sigmas: Sequence[float], predictions: Sequence[torch.Tensor]) -> torch.Tensor:
        """x at σ′, D being the polynomial in λ through the predictions at ``sigmas``."""
        h = math.log(self.sigma / self.sigma_next)
        speed = 1 + self.tau**2
        x = (self.sigma_next / self.sigma) * math.exp(-(self.tau**2) * h) * self.x
        nodes = [math.log(self.sigma / sigma) for sigma in sigmas]
        for basis, prediction in zip(lagrange_basis(nodes), predictions, strict=True):
            # ∫₀ʰ e^(−speed(h−v)) vᵏ dv = k! h^(k+1) φₖ₊₁(−speed·h)
            weight = math.fsum(
                float(factor) * math.factorial(k) * h ** (k + 1) * phi(k + 1, -speed * h)
                for k, factor in enumerate(basis.coef)
            )
            x = x + speed * weight * prediction
        if self.noise is not None:
            x = x + self.sigma_next * math.sqrt(-math.expm1(-2 * self.tau**2 * h)) * self.noise
        return x


def _sa_solver(
    x: torch.Tensor, sigmas: Sequence[float], run: Run, *, evaluates_again: bool
) -> Steps:
    levels = distinct(sigmas)
    last_step = len(levels) - 2
    noisiest, cleanest = (run.schedule.sigma_at_percent(p) for p in _STOCHASTIC_SPAN)
    predictions: list[torch.Tensor] = []  # newest first
    step: _Step | None = None
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        denoised, _ = yield Eval(x, sigma)
        predictions = [denoised, *predictions[: _CORRECTOR_ORDER - 1]]
        if step is not None and (evaluates_again or i < last_step):
            order = min(_CORRECTOR_ORDER, i + 1, last_step + 1 - i)
            x = step.end([levels[i - k] for k in range(order)], predictions[:order])
            if evaluates_again:
                denoised, _ = yield Eval(x, sigma, reports=False)
                predictions[0] = denoised
        if sigma_next == 0:
            x = denoised
            continue
        tau = 1.0 if noisiest >= sigma_next >= cleanest else 0.0
        step = _Step(x, sigma, sigma_next, tau, run.noise() if tau else None)
        order = max(min(_PREDICTOR_ORDER, i + 1, last_step - i), 1)
        x = step.end([levels[i - k] for k in range(order)], predictions[:order])
    return x
