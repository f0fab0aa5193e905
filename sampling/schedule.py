"""The noise schedule a UNet was trained with, in σ = √((1−ᾱ)/ᾱ).

All in torch's float32, as in the reference: if a σ is halfway between two timesteps, the last bit
decides which of them the network gets.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from pipelines import EdmSchedule, NoiseSchedule

_LAST_ALPHA_BAR = 4.8973451890853435e-08
"""Of a schedule with zero terminal SNR: σ is 4518.76."""
_LEVELS = 1000
_KEPT_TIMESTEPS = 4096
"""Cached timesteps of the last σ used: SEGs mostly share their σ, and each step needs it twice."""


class DiscreteSchedule:
    """σ of every training timestep, and the conversion between σ and t.

    Args:
        sigmas: σ per timestep, rising, float64 ``[T]``.
    """

    def __init__(self, sigmas: torch.Tensor) -> None:
        self.sigmas = sigmas.float()
        self._log_sigmas = sigmas.log().float()
        self.sigma_min = float(self.sigmas[0])
        self.sigma_max = float(self.sigmas[-1])
        self._timesteps = lru_cache(maxsize=_KEPT_TIMESTEPS)(self._nearest)

    @staticmethod
    @lru_cache(maxsize=16)
    def of(schedule: NoiseSchedule) -> DiscreteSchedule:
        """The schedule of a descriptor; shared and immutable."""
        if isinstance(schedule, EdmSchedule):
            return ContinuousSchedule(schedule.sigma_min, schedule.sigma_max)
        ends = schedule.beta_start**0.5, schedule.beta_end**0.5
        betas = torch.linspace(*ends, schedule.timesteps, dtype=torch.float64) ** 2
        if schedule.zero_terminal_snr:
            betas = _zero_terminal_snr(betas)
        alphas_bar = torch.cumprod(1.0 - betas, dim=0)
        return DiscreteSchedule(((1.0 - alphas_bar) / alphas_bar).sqrt())

    def __len__(self) -> int:
        return len(self.sigmas)

    def timestep(self, sigma: float) -> float:
        """The integer t whose log σ is nearest: the network's input."""
        return self._timesteps(sigma)

    def _nearest(self, sigma: float) -> int:
        distance = torch.tensor(sigma, dtype=torch.float32).log() - self._log_sigmas
        return int(distance.abs().argmin())

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        """σ at fractional timesteps, log σ interpolated linearly, clamped to the range."""
        t = timestep.float().clamp(0, len(self) - 1)
        low, weight = t.floor().long(), t.frac()
        high = t.ceil().long()
        return ((1 - weight) * self._log_sigmas[low] + weight * self._log_sigmas[high]).exp()

    def sigma_at_percent(self, percent: float) -> float:
        """σ at a fraction of the sampling: ∞ at 0 or below, 0 at 1 or above."""
        if percent <= 0.0:
            return float("inf")
        if percent >= 1.0:
            return 0.0
        return float(self.sigma(torch.tensor((1.0 - percent) * (len(self) - 1))))


class ContinuousSchedule(DiscreteSchedule):
    """EDM's noise levels (arXiv 2206.00364): each σ of a range is a level of its own, and the
    network's input is its c_noise = ln σ / 4.

    For what counts timesteps, such as most schedulers, there is a table of 1000 σ at equal
    distances in log σ.
    """

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        ends = math.log(sigma_min), math.log(sigma_max)
        super().__init__(torch.linspace(*ends, _LEVELS, dtype=torch.float64).exp())

    def timestep(self, sigma: float) -> float:
        """ln σ / 4; a σ below the range counts as its least."""
        return math.log(max(sigma, self.sigma_min)) / 4


def _zero_terminal_snr(betas: torch.Tensor) -> torch.Tensor:
    """β rescaled so that the last step is pure noise: algorithm 1 of arXiv 2305.08891.

    Its σ would be infinite; as in the reference, ᾱ ends a little above 0.
    """
    root = torch.cumprod(1.0 - betas, dim=0).sqrt()
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    alphas_bar = root**2
    alphas_bar[-1] = _LAST_ALPHA_BAR
    alphas = torch.cat([alphas_bar[:1], alphas_bar[1:] / alphas_bar[:-1]])
    return 1.0 - alphas
