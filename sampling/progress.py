"""A request's progress and its listeners.

A listener must return at once and raise nothing: it runs in the engine's loop.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import torch

from request_plan.plan import FailedSeg
from sampling.pipeline import Pipeline
from segs_client.arrays import ByteArray


@dataclass(frozen=True)
class SampledPass:
    """One pass of one SEG: pixels ``[H, W, 3]``."""

    seg: int
    batch_pass: int
    pixels: ByteArray
    seed: int
    steps_run: int
    sample_s: float

    @property
    def status(self) -> Literal["enhanced", "unsampled_schedule_too_short"]:
        """Whether anything was redrawn."""
        return "enhanced" if self.steps_run else "unsampled_schedule_too_short"


class Step(NamedTuple):
    """A finished step: the ``step``-th of ``steps`` in a cycle, and its denoised prediction
    ``[1, c, h, w]``."""

    cycle: int
    step: int
    steps: int
    denoised: torch.Tensor

    @classmethod
    def at(cls, sigma: float, sigmas: Sequence[float], cycle: int, denoised: torch.Tensor) -> Step:
        """The step at a noise level ``sigma`` of a cycle's falling levels ``sigmas``: samplers may
        call the model more or less than once per step.

        Example:
            >>> Step.at(2.0, [4.0, 2.0, 1.0, 0.0], 0, torch.empty(0))[:3]
            (0, 2, 3)
        """
        steps = len(sigmas) - 1
        passed = bisect.bisect_right(sigmas, -sigma, key=operator.neg)
        return cls(cycle, min(max(passed, 1), steps), steps, denoised)


class BatchTiming(NamedTuple):
    """A call of a network: when it was queued, and the start and end of its batch, in nanoseconds
    since 1970; its own rows, and the size of the batch."""

    network: str
    queued_ns: int
    begun_ns: int
    ended_ns: int
    rows: int
    batch_rows: int
    batch_calls: int
    batch_requests: int
    answered: bool
    """False: the batch failed; the call may be run again."""


StepListener = Callable[[Step], None]
"""Called for every step of one pass of a SEG."""
BatchListener = Callable[[BatchTiming], None]
"""Called for every batch with a call of one pass of a SEG."""
PassStage = Literal["encode", "sample", "decode"]
"""The stages of a pass of a SEG, in order."""
T = TypeVar("T")


class RequestListener:
    """Listens to one request. This base does nothing."""

    def accepted(self, position: int, estimate_s: float | None, pipeline: Pipeline) -> None:
        """The request is admitted after ``position`` others; ``estimate_s``: until its end."""

    def started(self, index: int, batch_pass: int) -> None:
        """A pass of a SEG has started."""

    def entered(self, index: int, batch_pass: int, part: PassStage) -> None:
        """A pass has entered a stage."""

    def step_listener(self, index: int, batch_pass: int) -> StepListener | None:
        """The listener of a pass's steps, if any."""

    def batch_listener(self, index: int, batch_pass: int) -> BatchListener | None:
        """The listener of a pass's batches, if any."""

    def done(self, done: SampledPass) -> None:
        """A pass of a SEG is done."""

    def failed(self, seg: FailedSeg) -> None:
        """A pass of a SEG has failed."""

    def ended(self) -> None:
        """The request has ended; this is the last call."""


def all_of(listeners: Iterable[Callable[[T], None] | None]) -> Callable[[T], None] | None:
    """One listener that calls all of these; None if there are none."""
    present = [each for each in listeners if each is not None]
    if len(present) < 2:
        return present[0] if present else None

    def call(event: T) -> None:
        for each in present:
            each(event)

    return call


def preview_pixels(
    denoised: torch.Tensor, factors: torch.Tensor, bias: torch.Tensor, side_px: int
) -> torch.Tensor:
    """The colours of a latent, at most one pixel per cell, on the latent's device.

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
