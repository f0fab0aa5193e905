"""Sampling of one SEG: its mask, its networks, and the cycles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from request_plan.plan import PlannedSeg
from sampling import schedulers, vae
from sampling.conditioning import Guidance
from sampling.denoiser import DenoisedListener, Denoiser, Sampled, run_sampler
from sampling.inpaint import inpaint_channels, mask_at_pixels, masked_values
from sampling.masks import LatentMask, MaskSchedule, to_latent
from sampling.noise import brownian_tree, seeded_noise, step_noise
from sampling.pipeline import Pipeline
from sampling.program import Program
from sampling.progress import Step, StepListener
from sampling.samplers import SAMPLERS, Run
from sampling.unet import Control
from segs_client.arrays import ByteArray
from segs_client.contract import DetailRequest
from segs_client.seeds import mask_seed, pass_seed


@dataclass(frozen=True)
class Stage:
    """A pipeline with all its inputs for one SEG except x and σ."""

    pipeline: Pipeline
    guidance: Guidance
    controls: tuple[Control, ...] = ()
    concat: torch.Tensor | None = None

    def to(self, device: torch.device) -> Stage:
        """A copy whose tensors are on a device, so that no step has to move them."""
        controls = tuple(control.to(device) for control in self.controls)
        return replace(self, guidance=self.guidance.to(device), controls=controls)

    def denoiser(self, cfg: float, mask: LatentMask | None, latent: torch.Tensor) -> Denoiser:
        """The model that a sampler calls, for a latent of this size."""
        family = self.pipeline.descriptor.family
        text = self.guidance.rows(family, *latent.shape[-2:])
        return Denoiser(
            self.pipeline.unet, self.guidance, text, cfg, mask, self.controls, self.concat
        )


@dataclass(frozen=True)
class EncodedSeg:
    """A SEG's latents and mask.

    ``latent`` ``[1, c, h, w]``; ``mask`` ``[1, 1, h, w]`` on the latent, feathered, or None;
    ``masked_latent``: the latent of the crop with its masked pixels grey, for inpainting networks.
    """

    latent: torch.Tensor
    mask: torch.Tensor | None
    masked_latent: torch.Tensor | None = None


@dataclass(frozen=True)
class Detailed:
    """A sampled latent ``[1, c, h, w]`` and the number of steps run in all cycles."""

    latent: torch.Tensor
    steps_run: int


def encode(
    pipeline: Pipeline,
    request: DetailRequest,
    pixels: ByteArray,
    latent: torch.Tensor,
    mask: torch.Tensor | None,
) -> Program[EncodedSeg]:
    """Resizes a SEG's feathered mask ``[h, w]`` to its crop's latent.

    For inpainting networks, also encodes the crop ``[H, W, 3]`` with its masked pixels grey.
    """
    if mask is None:
        return EncodedSeg(latent, None)
    if not request.inpaint_model:
        return EncodedSeg(latent, to_latent(mask, *latent.shape[-2:]).to(latent.device))
    at_pixels = mask_at_pixels(mask, pixels.shape[0], pixels.shape[1])
    on_latent = to_latent(at_pixels, *latent.shape[-2:]).to(latent.device)
    descriptor = pipeline.descriptor
    if descriptor.unet_channels == latent.shape[1]:
        return EncodedSeg(latent, on_latent)
    values = masked_values(vae.to_values(pixels), at_pixels)
    masked = yield from vae.encode(descriptor, values)
    return EncodedSeg(latent, on_latent, masked)


def detail(
    base: Stage, refiner: Stage | None, request: DetailRequest, seg: PlannedSeg,
    encoded: EncodedSeg, batch_pass: int, step_listener: StepListener | None = None,
) -> Program[Detailed]:  # fmt: skip
    """Samples a SEG ``cycle`` times in sequence, with the pass's seed, seed+1, …, on its latent's
    device.

    If the schedule is too short for the requested denoise, ``steps_run`` is 0 and the latent is
    returned unchanged. ``step_listener`` is called for every step.
    """
    latent, steps_run = encoded.latent, 0
    base = base.to(latent.device)
    refiner = None if refiner is None else refiner.to(latent.device)
    for cycle in range(request.cycle):
        seed = pass_seed(seg.seed, batch_pass, cycle)
        run = _Cycle(request, seg, encoded.mask, latent, seed, cycle, step_listener)
        channels = base.pipeline.unet.channels
        concat = inpaint_channels(channels, latent, encoded.mask, encoded.masked_latent)
        sampled = yield from run.sample(replace(base, concat=concat), refiner)
        latent = sampled.latent
        steps_run += sampled.steps_run
    return Detailed(latent, steps_run)


@dataclass(frozen=True)
class _Cycle:
    """One sampling of a latent from its noise to its end."""

    request: DetailRequest
    seg: PlannedSeg
    mask: torch.Tensor | None
    latent: torch.Tensor
    seed: int
    number: int = 0
    step_listener: StepListener | None = None

    def sample(self, base: Stage, refiner: Stage | None) -> Program[Detailed]:
        levels = self._levels(base, keeps_noise=refiner is not None)
        noise = seeded_noise(self.seed, self.latent.shape, self.latent.device)
        if refiner is None:
            if not levels.has_steps:
                return Detailed(self.latent, 0)
            listener = self._denoised_listener(levels.sigmas)
            done = yield from self._run(base, levels, self.latent, noise, listener, hard=True)
            return Detailed(done.denoised, done.steps)
        split = math.floor(self.seg.steps * (1 - self.request.refiner_ratio))
        latent, steps = self.latent, 0
        first = levels._replace(sigmas=levels.sigmas[: split + 1])
        if first.has_steps:
            listener = self._denoised_listener(levels.sigmas)
            done = yield from self._run(base, first, latent, noise, listener, hard=True)
            latent, steps = done.x, done.steps
        if self.mask is not None:
            latent = latent * self.mask + self.latent * (1 - self.mask)
        levels = self._levels(refiner)
        rest = levels._replace(sigmas=levels.sigmas[split:])
        if not rest.has_steps:
            return Detailed(latent, steps)
        concat = inpaint_channels(refiner.pipeline.unet.channels, latent, self.mask, None)
        stage = replace(refiner, concat=concat)
        none, listener = torch.zeros_like(noise), self._denoised_listener(levels.sigmas)
        done = yield from self._run(stage, rest, latent, none, listener, hard=False)
        return Detailed(done.denoised, steps + done.steps)

    def _denoised_listener(self, sigmas: Sequence[float]) -> DenoisedListener | None:
        """Calls the step listener for a cycle with these levels."""
        step_listener = self.step_listener
        if step_listener is None:
            return None

        def listener(sigma: float, denoised: torch.Tensor) -> None:
            step_listener(Step.at(sigma, sigmas, self.number, denoised))

        return listener

    def _levels(self, stage: Stage, *, keeps_noise: bool = False) -> schedulers.RunLevels:
        request, seg = self.request, self.seg
        scheduler = schedulers.SCHEDULERS[request.scheduler]
        discards = SAMPLERS[request.sampler_name].discard_penultimate
        if request.scheduler_func is not None:
            scheduler = schedulers.custom(request.scheduler_func)
            discards = False  # a request's own levels are all meant
        return schedulers.run_levels(
            scheduler,
            seg.steps,
            seg.denoise,
            stage.pipeline.schedule,
            discard_penultimate=discards,
            keeps_noise=keeps_noise,
        )

    def _run(
        self,
        stage: Stage,
        levels: schedulers.RunLevels,
        latent: torch.Tensor,
        noise: torch.Tensor,
        listener: DenoisedListener | None,
        *,
        hard: bool,
    ) -> Program[Sampled]:
        """Runs one pipeline. ``hard``: with differential diffusion if the mask is feathered."""
        sampler = SAMPLERS[self.request.sampler_name]
        sigmas, span = levels
        schedule = stage.pipeline.schedule
        mask = None
        if self.mask is not None:
            outside = noise
            seed = mask_seed(self.seed, self.request.sampler_name)
            if seed != self.seed:  # in a refiner's part too, which begins without noise
                outside = seeded_noise(seed, noise.shape, noise.device)
            hardens = hard and self.request.noise_mask_feather > 0
            hardening = MaskSchedule.of_run(schedule, sigmas) if hardens else None
            mask = LatentMask(self.mask, latent, outside, hardening)
        run = Run(
            noise=step_noise(self.seed, latent.shape, latent.device),
            brownian=partial(brownian_tree, self.seed, noise),
            span=span,
            schedule=schedule,
        )
        x = _noised(latent, noise, sigmas[0], schedule.sigma_max)
        denoiser = stage.denoiser(self.seg.cfg, mask, latent)
        return (yield from run_sampler(sampler, denoiser, x, sigmas, run, listener))


def needs_negative(request: DetailRequest, seg: PlannedSeg) -> bool:
    """Whether guidance uses the negative prediction."""
    return seg.cfg != 1 or SAMPLERS[request.sampler_name].needs_uncond


def _noised(
    latent: torch.Tensor, noise: torch.Tensor, sigma: float, sigma_max: float
) -> torch.Tensor:
    """The start of a run; from the schedule's largest σ the variance is that of pure noise."""
    from_pure_noise = sigma >= sigma_max * (1 - 1e-5)
    return noise * (math.sqrt(1 + sigma**2) if from_pure_noise else sigma) + latent
