"""What samplers are made of.

A sampler is a generator function ``(x, sigmas, run)``. It yields :class:`Eval`, a question to
the model, and is sent the :class:`Prediction`. It keeps all state of its run in local variables,
so thousands can live side by side; it knows nothing of batches, masks or networks.
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
    """A question to the model: the denoised prediction for ``x`` at ``sigma``.

    ``reports``: the answer may become the run's result, and counts as progress.
    """

    x: torch.Tensor
    sigma: float
    reports: bool = True


class Prediction(NamedTuple):
    """The model's answer, both of x's shape: after guidance and mask, and the negative's own
    prediction before the mask (the same as the positive's where no negative was computed)."""

    denoised: torch.Tensor
    uncond: torch.Tensor


Steps = Generator[Eval, Prediction, torch.Tensor]
"""A run in progress; it returns its final x."""


@dataclass(frozen=True)
class Run:
    """What a sampler may draw on: noise by the step, the Brownian path, the schedule."""

    noise: StepNoise
    brownian: Callable[[float, float], BrownianIncrement]
    """``brownian(sigma_min, sigma_max)`` makes the path W over a span of σ."""
    span: tuple[float, float]
    """The smallest σ above 0 and the largest of the whole schedule, of which a run may be the
    end."""
    schedule: DiscreteSchedule


@dataclass(frozen=True)
class Sampler:
    """A named sampler: its function and what the run around it must know."""

    steps: Callable[[torch.Tensor, Sequence[float], Run], Steps]
    discard_penultimate: bool = False
    """The schedule gets one step more and loses its second-last σ."""
    needs_uncond: bool = False
    """The negative is computed even at cfg 1."""
    mask_seed_offset: int = 0
    """Added to the seed of the noise that stands outside the mask."""


def derivative(x: torch.Tensor, denoised: torch.Tensor, sigma: float) -> torch.Tensor:
    """d = (x − D)/σ, the probability-flow ODE's slope in σ (Karras et al., arXiv 2206.00364)."""
    return (x - denoised) / sigma


def ancestral(sigma: float, sigma_next: float, eta: float = 1.0) -> tuple[float, float]:
    """(down, up): the σ to step down to and the noise to add, so that the next level is reached
    (k-diffusion's ``get_ancestral_step``)."""
    variance = sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2
    up = min(sigma_next, eta * variance**0.5)
    return (sigma_next**2 - up**2) ** 0.5, up


def distinct(sigmas: Sequence[float]) -> list[float]:
    """The levels without repetitions, which some schedules have past 1000 steps: a step of no
    length changes nothing, but a multistep method would divide by it."""
    return [sigma for sigma, following in pairwise(sigmas) if sigma != following] + [sigmas[-1]]
