"""How a request goes, told while it is under way to whoever follows it.

Whoever is told returns at once and raises nothing: a step never waits for its audience.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from preprocessing.plan import FailedSeg
from sampling.pipeline import Pipeline

if TYPE_CHECKING:
    from sampling.request_work import Done


class Step(NamedTuple):
    """A step that was taken: the ``step``-th of ``steps`` in a cycle, and what the sampler takes
    for the end by now, ``[1, c, h, w]``."""

    cycle: int
    step: int
    steps: int
    denoised: torch.Tensor

    @classmethod
    def at(cls, sigma: float, sigmas: Sequence[float], cycle: int, denoised: torch.Tensor) -> Step:
        """By the noise level that it was taken at, of a cycle's falling levels, as some samplers
        ask more or less often than there are steps.

        Example:
            >>> Step.at(2.0, [4.0, 2.0, 1.0, 0.0], 0, torch.empty(0))[:3]
            (0, 2, 3)
        """
        steps = len(sigmas) - 1
        passed = bisect.bisect_right(sigmas, -sigma, key=operator.neg)
        return cls(cycle, min(max(passed, 1), steps), steps, denoised)


Watch = Callable[[Step], None]
"""Is told every step of one pass of a SEG."""


class Follower(Protocol):
    """Hears how one request goes."""

    def accepted(self, position: int, estimate_s: float | None, pipeline: Pipeline) -> None:
        """It was let in, after so many others; its time by estimate."""

    def started(self, index: int, batch_pass: int) -> None:
        """A pass of a SEG is begun."""

    def watch(self, index: int, batch_pass: int) -> Watch:
        """What is to be told the steps of a pass."""

    def done(self, done: Done) -> None:
        """A pass of a SEG is done."""

    def failed(self, seg: FailedSeg) -> None:
        """A pass of a SEG has failed."""

    def ended(self) -> None:
        """Nothing more is told of the request."""


def preview_pixels(
    denoised: torch.Tensor, factors: torch.Tensor, bias: torch.Tensor, side_px: int
) -> torch.Tensor:
    """The colours of a latent, one pixel a cell, or fewer; where the latent lives.

    Args:
        denoised: ``[1, c, h, w]``, scaled as sampled.
        factors, bias: ``[3, c]`` and ``[3]``: colours, 0…1, are ``factors · latent + bias``.
        side_px: longest side, at most.

    Returns:
        uint8 ``[h', w', 3]``.
    """
    latent = denoised[0].float()
    stride = -(-max(latent.shape[-2:]) // side_px)
    if stride > 1:
        latent = torch.nn.functional.avg_pool2d(latent[None], stride, ceil_mode=True)[0]
    colours = torch.einsum("kc,chw->hwk", factors, latent) + bias
    return (torch.nan_to_num(colours).clamp(0, 1) * 255).to(torch.uint8)
