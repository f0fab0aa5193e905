"""The model that a sampler sees, composed of small parts: network, prediction type, guidance,
mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sampling.masks import LatentMask
from sampling.program import Call, Program
from sampling.samplers import Prediction, Run, Sampler
from sampling.schedule import DiscreteSchedule


def epsilon_to_denoised(x: torch.Tensor, sigma: float, out: torch.Tensor) -> torch.Tensor:
    """x − σ·ε: the network predicts the noise."""
    return x - out * sigma


PREDICTIONS: dict[str, Callable[[torch.Tensor, float, torch.Tensor], torch.Tensor]] = {
    "epsilon": epsilon_to_denoised,
}


@dataclass(frozen=True)
class UNet:
    """A UNet as a Triton model: x and σ in, denoised predictions out."""

    model: str
    prediction: str
    schedule: DiscreteSchedule

    def denoise(
        self, x: torch.Tensor, sigma: float, contexts: torch.Tensor
    ) -> Program[torch.Tensor]:
        """The denoised prediction under each conditioning.

        Args:
            x: ``[1, c, h, w]``.
            contexts: text conditionings ``[n, L, D]``, one row each.

        Returns:
            ``[n, c, h, w]``.
        """
        rows = contexts.shape[0]
        scaled = x / (sigma**2 + 1) ** 0.5
        timestep = torch.full((rows, 1), float(self.schedule.timestep(sigma)))
        outputs = yield Call(
            self.model,
            {
                "sample": scaled.expand(rows, -1, -1, -1),
                "timestep": timestep,
                "encoder_hidden_states": contexts,
            },
        )
        return PREDICTIONS[self.prediction](x, sigma, outputs["out_sample"])


@dataclass(frozen=True)
class Denoiser:
    """Guidance and mask around a UNet.

    ``contexts`` is ``[2, L, D]``: positive, negative; or ``[1, L, D]``, the positive alone, where
    the negative is not needed.
    """

    unet: UNet
    contexts: torch.Tensor
    cfg: float
    mask: LatentMask | None

    def predict(self, x: torch.Tensor, sigma: float) -> Program[Prediction]:
        """Classifier-free guidance (arXiv 2207.12598) inside the mask."""
        mask = self.mask.at(sigma) if self.mask is not None else None
        if self.mask is not None and mask is not None:
            x = self.mask.noised(x, sigma, mask)
        rows = yield from self.unet.denoise(x, sigma, self.contexts)
        positive, negative = rows[:1], rows[-1:]
        denoised = negative + self.cfg * (positive - negative) if len(rows) > 1 else positive
        if self.mask is not None and mask is not None:
            denoised = self.mask.kept(denoised, mask)
        return Prediction(denoised, negative)


@dataclass(frozen=True)
class Sampled:
    """The end of a run: the last reported prediction, the sampler's own x, the steps taken."""

    denoised: torch.Tensor
    x: torch.Tensor
    steps: int


def run_sampler(
    sampler: Sampler, denoiser: Denoiser, x: torch.Tensor, sigmas: Sequence[float], run: Run
) -> Program[Sampled]:
    """Lets a sampler ask its denoiser until it is done.

    ``sigmas`` has at least two levels. The result's ``denoised`` is the prediction of the last
    call that reports.
    """
    steps = sampler.steps(x, sigmas, run)
    denoised, taken = x, 0
    question = next(steps)
    while True:
        prediction = yield from denoiser.predict(question.x, question.sigma)
        if question.reports:
            denoised, taken = prediction.denoised, taken + 1
        try:
            question = steps.send(prediction)
        except StopIteration as end:
            return Sampled(denoised, end.value, taken)
