"""A model whose answer is known: data drawn from a normal distribution of a given spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from pipelines import Schedule
from sampling.noise import brownian_tree, step_noise
from sampling.samplers import SAMPLERS, Eval, Prediction, Run
from sampling.schedule import DiscreteSchedule

SCHEDULE = DiscreteSchedule.of(Schedule())
SPAN = 0.03, 14.0
"""Of the step schedule that runs are the end of."""

Model = Callable[[torch.Tensor, float], Prediction]


def denoise(x: torch.Tensor, sigma: float, spread: float) -> torch.Tensor:
    """The exact denoiser of N(0, spread²)."""
    return x * spread**2 / (spread**2 + sigma**2)


def unguided(spread: float) -> Model:
    """The exact model of N(0, spread²), whatever the conditioning: U = D."""

    def model(x: torch.Tensor, sigma: float) -> Prediction:
        return Prediction(denoise(x, sigma, spread), denoise(x, sigma, spread))

    return model


def guided(spread: float, spread_uncond: float) -> Model:
    """D and U of two distributions."""

    def model(x: torch.Tensor, sigma: float) -> Prediction:
        return Prediction(denoise(x, sigma, spread), denoise(x, sigma, spread_uncond))

    return model


def exact_end(x: torch.Tensor, sigma: float, sigma_end: float, spread: float) -> torch.Tensor:
    """Where the probability-flow ODE takes x from σ to σ_end."""
    return x * math.sqrt((spread**2 + sigma_end**2) / (spread**2 + sigma**2))


def run(
    name: str, x: torch.Tensor, sigmas: Sequence[float], model: Model, seed: int = 0
) -> tuple[torch.Tensor, list[Eval]]:
    """Runs a sampler; returns its final x and every question it asked."""
    tools = Run(
        noise=step_noise(seed, x.shape),
        brownian=lambda low, high: brownian_tree(seed, x, low, high),
        span=SPAN,
        schedule=SCHEDULE,
    )
    steps = SAMPLERS[name].steps(x, sigmas, tools)
    asked: list[Eval] = []
    try:
        asked.append(next(steps))
        while True:
            asked.append(steps.send(model(asked[-1].x, asked[-1].sigma)))
    except StopIteration as end:
        return end.value, asked
