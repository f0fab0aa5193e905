"""The named step schedules: a number of steps as a list of σ that ends with 0.

Each scheduler is one function ``(steps, schedule) -> [σ₀, …, 0]`` in float32.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import betaincinv

from sampling.schedule import DiscreteSchedule
from segs_client.contract import SchedulerFunc

Scheduler = Callable[[int, DiscreteSchedule], torch.Tensor]

_GITS_MAX_STEPS = 20


def _ending_in_zero(sigmas: torch.Tensor) -> torch.Tensor:
    return torch.cat([sigmas.float(), torch.zeros(1)])


def simple(steps: int, schedule: DiscreteSchedule) -> torch.Tensor:
    """Training σ at equal distances from the noisy end."""
    stride = len(schedule) / steps
    picked = [-1 - int(i * stride) for i in range(steps)]
    return _ending_in_zero(schedule.sigmas[picked])


def sgm_uniform(steps: int, schedule: DiscreteSchedule) -> torch.Tensor:
    """Equal distances in t; the last step starts one distance above t = 0
    (Stability's generative-models)."""
    t = torch.linspace(len(schedule) - 1, 0, steps + 1)[:-1]
    return _ending_in_zero(schedule.sigma(t))


def normal(steps: int, schedule: DiscreteSchedule) -> torch.Tensor:
    """Equal distances in t from the noisiest to the cleanest timestep."""
    return _ending_in_zero(schedule.sigma(torch.linspace(len(schedule) - 1, 0, steps)))


def karras_between(
    steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0
) -> torch.Tensor:
    """Equal distances in σ^(1/ρ): Karras et al., arXiv 2206.00364, equation 5."""
    ramp = torch.linspace(0, 1, steps)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    levels = (high + ramp * (low - high)) ** rho
    # A low that is lost in the difference to high would end the curve with 0 twice.
    return _ending_in_zero(torch.where(levels > 0, levels, sigma_min))


def karras(steps: int, schedule: DiscreteSchedule) -> torch.Tensor:
    """Karras with ρ = 7 over the whole schedule."""
    return karras_between(steps, schedule.sigma_min, schedule.sigma_max)


def exponential(steps: int, schedule: DiscreteSchedule) -> torch.Tensor:
    """Equal distances in log σ."""
    ends = math.log(schedule.sigma_max), math.log(schedule.sigma_min)
    return _ending_in_zero(torch.linspace(*ends, steps).exp())


def ddim_uniform(steps: int, schedule: DiscreteSchedule) -> torch.Tensor:
    """Every ⌊T/steps⌋-th timestep from t = 1 upwards (DDIM, arXiv 2010.02502); the number of
    steps may differ from ``steps``."""
    stride = max(len(schedule) // steps, 1)
    return _ending_in_zero(schedule.sigmas[1::stride].flip(0))


def beta(steps: int, schedule: DiscreteSchedule) -> torch.Tensor:
    """Timesteps at quantiles of the Beta(0.6, 0.6) distribution (arXiv 2407.12173), each
    once: with many steps some coincide and the list is shorter."""
    quantiles = betaincinv(0.6, 0.6, 1 - np.linspace(0, 1, steps, endpoint=False))
    t = np.rint(quantiles * (len(schedule) - 1)).astype(np.int64)
    distinct = torch.unique_consecutive(torch.from_numpy(t))
    return _ending_in_zero(schedule.sigmas[distinct])


def linear_quadratic(steps: int, schedule: DiscreteSchedule) -> torch.Tensor:
    """Half of the steps linear over the first 2.5% of the noise, the rest quadratic (Movie Gen,
    arXiv 2410.13720; coefficients as in genmo's mochi, Apache-2.0)."""
    if steps == 1:
        return torch.tensor([schedule.sigma_max, 0])
    threshold = 0.025
    linear_steps = steps // 2
    quadratic_steps = steps - linear_steps
    lag = linear_steps - threshold * steps
    a = lag / (linear_steps * quadratic_steps**2)
    b = threshold / linear_steps - 2 * lag / quadratic_steps**2
    c = a * linear_steps**2
    done = [
        i * threshold / linear_steps if i < linear_steps else a * i**2 + b * i + c
        for i in range(steps)
    ]
    return _ending_in_zero(torch.tensor([1 - part for part in done]) * schedule.sigma_max)


def kl_optimal(steps: int, schedule: DiscreteSchedule) -> torch.Tensor:
    """Equal distances in arctan σ: optimal in KL for Gaussian data (Align Your Steps,
    arXiv 2404.14507, section 3.1)."""
    done = torch.arange(steps) / max(steps - 1, 1)
    ends = math.atan(schedule.sigma_max), math.atan(schedule.sigma_min)
    return _ending_in_zero(((1 - done) * ends[0] + done * ends[1]).tan())


@lru_cache(maxsize=1)
def _tables() -> dict[str, dict[str, list[float]]]:
    text = files("sampling").joinpath("noise_level_tables.json").read_text("utf-8")
    tables: dict[str, dict[str, list[float]]] = json.loads(text)
    return tables


def _resampled(levels: list[float], steps: int) -> torch.Tensor:
    """``steps + 1`` levels, log σ interpolated linearly over a table; the last becomes 0."""
    if steps + 1 != len(levels):
        at = np.linspace(0, len(levels) - 1, steps + 1)
        levels = np.exp(np.interp(at, np.arange(len(levels)), np.log(levels))).tolist()
    return _ending_in_zero(torch.tensor(levels[:-1]))


def _align_your_steps(model: str) -> Scheduler:
    def scheduler(steps: int, schedule: DiscreteSchedule) -> torch.Tensor:
        return _resampled(_tables()["align_your_steps"][model], steps)

    scheduler.__doc__ = f"Align Your Steps (arXiv 2404.14507), the paper's levels for {model}."
    return scheduler


def gits(steps: int, schedule: DiscreteSchedule) -> torch.Tensor:
    """GITS (arXiv 2405.11326) with coefficient 1.2: a table of 2 to 20 steps, resampled above;
    a single step is the last one of the longest table, as in the reference."""
    table = _tables()["gits_1.20"]
    longest = table[str(_GITS_MAX_STEPS)]
    if steps > _GITS_MAX_STEPS:
        return _resampled(longest, steps)
    return _resampled(table[str(steps)] if steps > 1 else longest[-2:], steps)


SCHEDULERS: dict[str, Scheduler] = {
    "simple": simple,
    "sgm_uniform": sgm_uniform,
    "karras": karras,
    "exponential": exponential,
    "ddim_uniform": ddim_uniform,
    "beta": beta,
    "normal": normal,
    "linear_quadratic": linear_quadratic,
    "kl_optimal": kl_optimal,
    "AYS SDXL": _align_your_steps("SDXL"),
    "AYS SD1": _align_your_steps("SD1"),
    "AYS SVD": _align_your_steps("SVD"),
    "GITS[coeff=1.2]": gits,
}


def polyexponential_between(
    steps: int, sigma_min: float, sigma_max: float, rho: float
) -> torch.Tensor:
    """log σ falls with the ρ-th power of the remaining fraction (k-diffusion)."""
    left = torch.linspace(1, 0, steps) ** rho
    low, high = math.log(sigma_min), math.log(sigma_max)
    return _ending_in_zero((left * (high - low) + low).exp())


def custom(func: SchedulerFunc) -> Scheduler:
    """The levels given by a request itself (scheduler_func_opt)."""

    def scheduler(steps: int, schedule: DiscreteSchedule) -> torch.Tensor:
        if func.name == "sigmas":
            return torch.tensor(func.sigmas)
        if func.name == "karras":
            return karras_between(steps, func.sigma_min, func.sigma_max, func.rho)
        rho = func.rho if func.name == "polyexponential" else 1.0
        return polyexponential_between(steps, func.sigma_min, func.sigma_max, rho)

    return scheduler


def noise_levels(
    scheduler: Scheduler, steps: int, schedule: DiscreteSchedule, *, discard_penultimate: bool
) -> torch.Tensor:
    """The scheduler's list for ``steps`` steps. With ``discard_penultimate`` it is computed for one
    more step, without the second-last σ."""
    if not discard_penultimate:
        return scheduler(steps, schedule)
    sigmas = scheduler(steps + 1, schedule)
    return torch.cat([sigmas[:-2], sigmas[-1:]])


class RunLevels(NamedTuple):
    """The σ of one run, and the span of σ, without 0, of the whole schedule. The Brownian path of
    a stochastic sampler covers the span, so that it is the same whatever part of the schedule is
    run."""

    sigmas: list[float]
    span: tuple[float, float]

    @property
    def has_steps(self) -> bool:
        """Whether there is a step."""
        return len(self.sigmas) > 1


def run_levels(
    scheduler: Scheduler,
    steps: int,
    denoise: float,
    schedule: DiscreteSchedule,
    *,
    discard_penultimate: bool,
    keeps_noise: bool = False,
) -> RunLevels:
    """The last ``steps`` of ``floor(steps / denoise)`` steps.

    If the schedule is too short for that, there are no levels and nothing is sampled. If it is
    longer, the steps beyond are left out and the last level is 0; with ``keeps_noise``, for a run
    that another pipeline goes on with, it stays what the schedule has there.
    """
    total = int(steps / denoise)
    sigmas = noise_levels(scheduler, total, schedule, discard_penultimate=discard_penultimate)
    start = total - steps
    if start >= len(sigmas) - 1:
        return RunLevels([], (0.0, 0.0))
    span = float(sigmas[sigmas > 0].min()), float(sigmas.max())
    if total < len(sigmas) - 1:
        sigmas = sigmas[: total + 1] if keeps_noise else _ending_in_zero(sigmas[:total])
    return RunLevels(sigmas[start:].tolist(), span)
