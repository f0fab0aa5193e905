"""The model that a sampler calls, composed of network, guidance and mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from sampling.conditioning import Guidance
from sampling.masks import LatentMask
from sampling.program import Program
from sampling.samplers import Prediction, Run, Sampler
from sampling.unet import Control, RunInputs, TextRows, UNet


@dataclass(frozen=True)
class Denoiser:
    """Guidance and mask around a UNet and its ControlNets.

    ``text`` are ``guidance``'s rows; ``concat`` the further channels of an inpainting network.
    """

    unet: UNet
    guidance: Guidance
    text: TextRows
    cfg: float
    mask: LatentMask | None = None
    controls: Sequence[Control] = ()
    concat: torch.Tensor | None = None

    @cached_property
    def _inputs(self) -> RunInputs:
        return RunInputs.of(self.text, self.controls, self.concat)

    def predict(self, x: torch.Tensor, sigma: float) -> Program[Prediction]:
        """Classifier-free guidance (arXiv 2207.12598) inside the mask."""
        mask = self.mask.at(sigma) if self.mask is not None else None
        if self.mask is not None and mask is not None:
            x = self.mask.noised(x, sigma, mask)
        rows = yield from self.unet.denoise(x, sigma, self._inputs)
        positive, negative = self.guidance.split(rows)
        denoised = positive
        if self.guidance.negatives:
            denoised = negative + self.cfg * (positive - negative)
        if self.mask is not None and mask is not None:
            denoised = self.mask.kept(denoised, mask)
        return Prediction(denoised, negative)


@dataclass(frozen=True)
class Sampled:
    """The end of a run: the last reported prediction, the sampler's own x, the steps taken."""

    denoised: torch.Tensor
    x: torch.Tensor
    steps: int


DenoisedListener = Callable[[float, torch.Tensor], None]
"""Called at every call that reports, with its σ and what was predicted ``[1, c, h, w]``."""


def run_sampler(
    sampler: Sampler,
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    run: Run,
    listener: DenoisedListener | None = None,
) -> Program[Sampled]:
    """Lets a sampler ask its denoiser until it is done.

    ``sigmas`` has at least two levels. The result's ``denoised`` is the prediction of the last
    call that reports. A sampler that calls nothing has taken one step of length 0: both results
    are the x it returns.
    """
    steps = sampler.steps(x, sigmas, run)
    denoised, taken = x, 0
    try:
        question = next(steps)
    except StopIteration as end:
        return Sampled(end.value, end.value, 1)
    while True:
        prediction = yield from denoiser.predict(question.x, question.sigma)
        if question.reports:
            denoised, taken = prediction.denoised, taken + 1
            if listener is not None:
                listener(question.sigma, denoised)
        try:
            question = steps.send(prediction)
        except StopIteration as end:
            return Sampled(denoised, end.value, taken)
