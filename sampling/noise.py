"""All random draws of a run, from CPU generators seeded by the request.

Each draw is moved to the device of the run's latent: a GPU's own generators give other numbers for
the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torchsde

_CPU = torch.device("cpu")
_CACHED_NODES = 100
"""Cached nodes of a Brownian tree: a query passes about 20 levels at both its ends. With torchsde's
default of 45 nodes, a third of the noise would be drawn twice."""
_BROWNIAN_DIGITS = 6
"""Decimals to which torchsde resolves the path and rounds its ends."""

StepNoise = Callable[[], torch.Tensor]
BrownianIncrement = Callable[[float, float], torch.Tensor]


def seeded_noise(seed: int, shape: Sequence[int], device: torch.device = _CPU) -> torch.Tensor:
    """One float32 standard-normal draw of a shape from a fresh CPU generator."""
    return step_noise(seed, shape, device)()


def step_noise(seed: int, shape: Sequence[int], device: torch.device = _CPU) -> StepNoise:
    """The generator of ancestral samplers: each call draws the next float32 tensor."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(tuple(shape), generator=generator).to(device)


def brownian_tree(
    seed: int, like: torch.Tensor, sigma_min: float, sigma_max: float
) -> BrownianIncrement:
    """Brownian motion over σ, as SDE samplers need it (k-diffusion's BrownianTreeNoiseSampler):
    torchsde's BrownianTree, value for value, with a larger cache.

    Args:
        like: has the shape, dtype and device of the increments.

    Returns:
        ``W(a, b)``: the increment between two σ over √|a−b|, standard normal, the same for the
        same arguments whatever was drawn before. Outside the span the path is constant.
    """
    tree = torchsde.BrownianInterval(
        t0=torch.tensor(sigma_min),
        t1=torch.tensor(sigma_max),
        size=tuple(like.shape),
        dtype=like.dtype,
        device="cpu",
        entropy=seed,
        tol=10.0**-_BROWNIAN_DIGITS,
        pool_size=24,
        halfway_tree=True,
        cache_size=_CACHED_NODES,
    )
    first, last = (round(end, _BROWNIAN_DIGITS) for end in (sigma_min, sigma_max))

    def increment(a: float, b: float) -> torch.Tensor:
        # σ in float32, as in the reference: a path differs even between values this close.
        levels = (float(np.float32(level)) for level in sorted((a, b)))
        low, high = (min(max(level, first), last) for level in levels)
        path: torch.Tensor = tree(low, high)
        return (path * math.copysign(1 / math.sqrt(abs(a - b)), b - a)).to(like.device)

    return increment
