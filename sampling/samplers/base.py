"""The types and functions that samplers share.

A sampler is a generator function ``(x, sigmas, run)``. It yields :class:`Eval`, a call of the
model, and is sent the :class:`Prediction`. It keeps all state of its run in local variables, so
that thousands can run at once, and is independent of batches, masks and networks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch

from sampling.noise import BrownianIncrement, StepNoise
from sampling.schedule import DiscreteSchedule


class Eval(NamedTuple):
    """A call of the model for the denoised prediction of ``x`` at ``sigma``.

    ``reports``: the prediction may be the run's result, and counts as progress.
    """

    x: torch.Tensor
    sigma: float
    reports: bool = True


class Prediction(NamedTuple):
    """The model's predictions, both of x's shape: after guidance and mask, and the negative
    prediction before the mask (the positive one if no negative was computed)."""

    denoised: torch.Tensor
    uncond: torch.Tensor


Steps = Generator[Eval, Prediction, torch.Tensor]
"""A running sampler; it returns its final x."""


@dataclass(frozen=True)
class Run:
    """A run's sources of noise and its schedule."""

    noise: StepNoise
    brownian: Callable[[float, float], BrownianIncrement]
    """``brownian(sigma_min, sigma_max)`` returns the path W over a span of σ."""
    span: tuple[float, float]
    """The smallest σ above 0 and the largest σ of the whole schedule; a run may be its last
    part."""
    schedule: DiscreteSchedule


@dataclass(frozen=True)
class Sampler:
    """A sampler's function and its properties."""

    steps: Callable[[torch.Tensor, Sequence[float], Run], Steps]
    discard_penultimate: bool = False
    """The schedule is made for one more step, without its second-last σ."""
    needs_uncond: bool = False
    """The negative prediction is computed even at cfg 1."""


def derivative(x: torch.Tensor, denoised: torch.Tensor, sigma: float) -> torch.Tensor:
    """d = (x − D)/σ, the probability-flow ODE's slope in σ (Karras et al., arXiv 2206.00364)."""
    return (x - denoised) / sigma


def ancestral(sigma: float, sigma_next: float, eta: float = 1.0) -> tuple[float, float]:
    """(down, up): the σ to step down to, and the σ of the noise to add to reach the next level
    (k-diffusion's ``get_ancestral_step``)."""
    variance = sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2
    up = min(sigma_next, eta * variance**0.5)
    return (sigma_next**2 - up**2) ** 0.5, up


def distinct(sigmas: Sequence[float]) -> list[float]:
    """The levels without repetitions, which some schedules have above 1000 steps: a multistep
    method would divide by a step of length 0."""
    return [sigma for sigma, following in pairwise(sigmas) if sigma != following] + [sigmas[-1]]
