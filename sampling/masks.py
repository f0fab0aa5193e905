"""Masks of the latent: feathering, differential diffusion, keeping what lies outside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sampling.schedule import DiscreteSchedule
from segs_client.blur import BLUR_SIGMA, blur_kernel_size


def feather(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Gaussian blur of a mask, σ = 10, kernel 2·radius+1, reflect padding.

    One convolution with the two-dimensional kernel, in float32: inside a blurred mask the values
    are 1 ± 1e-7, and differential diffusion asks whether they reach 1, so the order of the
    additions shows in the picture. (Pasting has no such edge and blurs without torch.)

    Args:
        mask: float32 ``[h, w]``, 0…1.
        radius: pixels, 0 for none.
    """
    size = blur_kernel_size(radius, (mask.shape[0], mask.shape[1]))
    if size == 0:
        return mask
    half = (size - 1) * 0.5
    at = torch.linspace(-half, half, steps=size)
    line = torch.exp(-0.5 * (at / BLUR_SIGMA) ** 2)
    line = line / line.sum()
    kernel = torch.mm(line[:, None], line[None, :])[None, None]
    padded = F.pad(mask[None, None], [size // 2] * 4, mode="reflect")
    return F.conv2d(padded, kernel)[0, 0]


def to_latent(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear resize of a mask ``[h, w]`` to a latent's ``[1, 1, height, width]``."""
    return F.interpolate(mask[None, None], size=(height, width), mode="bilinear")


@dataclass(frozen=True)
class MaskSchedule:
    """Differential diffusion (arXiv 2306.00950): the mask's grey is the moment from which a
    pixel may change. ``start`` and ``end`` are timesteps of the run's first and last σ."""

    schedule: DiscreteSchedule
    start: int
    end: int

    @classmethod
    def of_run(cls, schedule: DiscreteSchedule, sigmas: list[float]) -> MaskSchedule:
        """``sigmas``: the run's levels, noisiest first."""
        last = max(sigmas[-1], schedule.sigma_min)
        return cls(schedule, schedule.timestep(sigmas[0]), schedule.timestep(last))

    def threshold(self, sigma: float) -> float:
        """The grey from which pixels change at ``sigma``: 1 at the first call, 0 at the last."""
        if self.start == self.end:
            return 1.0
        return (self.schedule.timestep(sigma) - self.end) / (self.start - self.end)


@dataclass(frozen=True)
class LatentMask:
    """Keeps the latent outside the mask: the network sees it at the right noise level, the
    prediction gets it back.

    ``mask`` float32 ``[1, 1, h, w]``; ``latent`` (clean) and ``noise`` ``[1, c, h, w]``;
    ``hardening`` None keeps the mask soft.
    """

    mask: torch.Tensor
    latent: torch.Tensor
    noise: torch.Tensor
    hardening: MaskSchedule | None = None

    def at(self, sigma: float) -> torch.Tensor:
        """The mask that holds at ``sigma``."""
        if self.hardening is None:
            return self.mask
        return (self.mask >= self.hardening.threshold(sigma)).to(self.mask.dtype)

    def noised(self, x: torch.Tensor, sigma: float, mask: torch.Tensor) -> torch.Tensor:
        """What the network sees: x inside, the noised latent outside."""
        return x * mask + (self.latent + self.noise * sigma) * (1 - mask)

    def kept(self, denoised: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The prediction inside, the clean latent outside."""
        return denoised * mask + self.latent * (1 - mask)
