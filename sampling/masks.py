"""Masks of the latent: feathering, differential diffusion, and keeping the outside unchanged."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sampling.schedule import DiscreteSchedule
from segs_client.blur import BLUR_SIGMA, blur_kernel_size

_BLOCK_PX = 64
"""Side of the blocks of a mask that are tested for a constant value."""


def feather(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Gaussian blur of a mask, σ = 10, kernel 2·radius+1, reflect padding.

    One convolution with the two-dimensional kernel, in float32: inside a blurred mask the values
    are 1 ± 1e-7, and differential diffusion tests whether they reach 1, so the order of the
    additions changes the picture. (Pasting has no such threshold and blurs without torch.)

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
    padded = F.pad(mask[None, None], [size // 2] * 4, mode="reflect")[0, 0]
    return _convolved(padded, kernel)


def _convolved(padded: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """The convolution of ``[h + 2·margin, w + 2·margin]``, bit for bit (except at radius 1), with
    one convolution for each constant value: most of a mask is constant, and a kernel may need
    41² multiplications a pixel."""
    size = kernel.shape[-1]
    height, width = (side - size + 1 for side in padded.shape)
    blurred = torch.empty(height, width)
    constants: dict[float, torch.Tensor] = {}
    for y in range(0, height, _BLOCK_PX):
        bottom = min(y + _BLOCK_PX, height)
        for x, right, value in _stretches(padded[y : bottom + size - 1], width, size):
            if value is None:
                patch = padded[y : bottom + size - 1, x : right + size - 1]
                blurred[y:bottom, x:right] = F.conv2d(patch[None, None], kernel)[0, 0]
                continue
            if value not in constants:
                plain = torch.full((1, 1, 2 * size, 2 * size), value)
                constants[value] = F.conv2d(plain, kernel)[0, 0, size // 2, size // 2]
            blurred[y:bottom, x:right] = constants[value]
    return blurred


def _stretches(band: torch.Tensor, width: int, size: int) -> list[tuple[int, int, float | None]]:
    """The stretches of a band of the mask with one value within the kernel's reach: (left, right,
    value); the value is None if there are several."""
    found: list[tuple[int, int, float | None]] = []
    for x in range(0, width, _BLOCK_PX):
        right = min(x + _BLOCK_PX, width)
        low, high = (float(end) for end in band[:, x : right + size - 1].aminmax())
        value = low if low == high else None
        if found and found[-1][2] == value:
            found[-1] = (found[-1][0], right, value)
        else:
            found.append((x, right, value))
    return found


def to_latent(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear resize of a mask ``[h, w]`` to a latent's ``[1, 1, height, width]``."""
    return F.interpolate(mask[None, None], size=(height, width), mode="bilinear")


@dataclass(frozen=True)
class MaskSchedule:
    """Differential diffusion (arXiv 2306.00950): the mask's value decides from which step on a
    pixel may change. ``start`` and ``end`` are the timesteps of the run's first and last σ."""

    schedule: DiscreteSchedule
    start: float
    end: float

    @classmethod
    def of_run(cls, schedule: DiscreteSchedule, sigmas: list[float]) -> MaskSchedule:
        """``sigmas``: the run's levels, noisiest first."""
        last = max(sigmas[-1], schedule.sigma_min)
        return cls(schedule, schedule.timestep(sigmas[0]), schedule.timestep(last))

    def threshold(self, sigma: float) -> float:
        """The mask value from which pixels change at ``sigma``: 1 at the first call, 0 at the
        last.

        A run that stays at one timestep changes nothing, as in the reference, where this is 0/0.
        """
        if self.start == self.end:
            return math.inf
        return (self.schedule.timestep(sigma) - self.end) / (self.start - self.end)


@dataclass(frozen=True)
class LatentMask:
    """Keeps the latent outside the mask: the network's input has it with the noise of the level,
    the prediction has it clean.

    ``mask`` float32 ``[1, 1, h, w]``; ``latent`` (clean) and ``noise`` ``[1, c, h, w]``;
    ``hardening`` None keeps the mask soft.
    """

    mask: torch.Tensor
    latent: torch.Tensor
    noise: torch.Tensor
    hardening: MaskSchedule | None = None

    def at(self, sigma: float) -> torch.Tensor:
        """The mask at ``sigma``."""
        if self.hardening is None:
            return self.mask
        return (self.mask >= self.hardening.threshold(sigma)).to(self.mask.dtype)

    def noised(self, x: torch.Tensor, sigma: float, mask: torch.Tensor) -> torch.Tensor:
        """The network's input: x inside, the noised latent outside."""
        return x * mask + (self.latent + self.noise * sigma) * (1 - mask)

    def kept(self, denoised: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The prediction inside, the clean latent outside."""
        return denoised * mask + self.latent * (1 - mask)
