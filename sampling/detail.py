"""What becomes of one SEG: encode, sample in cycles, decode; each a program of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from sampling.denoiser import Denoiser, run_sampler
from sampling.masks import LatentMask, MaskSchedule, feather, to_latent
from sampling.noise import brownian_tree, next_seed, seeded_noise, step_noise
from sampling.pipeline import Pipeline
from sampling.program import Call, Program
from sampling.samplers import SAMPLERS, Run
from sampling.schedulers import SCHEDULERS, run_levels
from sampling.text import to_common_length
from segs_client.contract import DetailRequest

_FACTOR = 8
"""Pixels to a latent cell, each way."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Detailed:
    """A sampled latent ``[1, c, h, w]`` and the steps that were run for it in all cycles."""

    latent: torch.Tensor
    steps_run: int


def conditioning(pipeline: Pipeline, prompts: tuple[str, ...]) -> Program[torch.Tensor]:
    """Encodes prompts as rows ``[n, L, D]`` of one length."""
    contexts = []
    for prompt in prompts:
        contexts.append((yield from pipeline.text_encoder.encode(prompt)))
    return to_common_length(contexts)


def prompts_needed(options: DetailRequest) -> tuple[str, ...]:
    """Positive and negative, or the positive alone where guidance makes no use of the other."""
    if options.cfg == 1 and not SAMPLERS[options.sampler_name].needs_uncond:
        return (options.prompt,)
    return options.prompt, options.negative


def encode(pipeline: Pipeline, pixels: Pixels) -> Program[torch.Tensor]:
    """A picture ``[H, W, 3]`` as a scaled latent: the mean of the VAE's posterior.

    Sides are cut to multiples of 8 about the centre.
    """
    height, width = (side - side % _FACTOR for side in pixels.shape[:2])
    top, left = ((side % _FACTOR) // 2 for side in pixels.shape[:2])
    cut = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    sample = (torch.from_numpy(cut).float() / 255).permute(2, 0, 1)[None] * 2 - 1
    vae = pipeline.descriptor.networks["vae_encoder"]
    outputs = yield Call(vae.model, {"sample": sample.contiguous()})
    return outputs["latent_mean"] * pipeline.descriptor.latent_scale


def decode(pipeline: Pipeline, latent: torch.Tensor) -> Program[Pixels]:
    """A scaled latent ``[1, c, h, w]`` as pixels ``[8h, 8w, 3]``, truncated."""
    vae = pipeline.descriptor.networks["vae_decoder"]
    outputs = yield Call(vae.model, {"latent_sample": latent / pipeline.descriptor.latent_scale})
    values = ((outputs["sample"][0] + 1) / 2).clamp(0, 1)
    pixels: Pixels = (values * 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return pixels


def detail(
    pipeline: Pipeline,
    options: DetailRequest,
    contexts: torch.Tensor,
    latent: torch.Tensor,
    mask: torch.Tensor | None,
    seed: int,
) -> Program[Detailed]:
    """Samples a latent ``cycle`` times over, with seed, seed+1, ….

    Args:
        contexts: rows as :func:`conditioning` made them of :func:`prompts_needed`.
        mask: float32 ``[h, w]`` in pixels of the crop, or None to redraw all of it.

    ``steps_run`` is 0 where the schedule is too short for the denoise asked for; the latent is
    then the one given.
    """
    sampler = SAMPLERS[options.sampler_name]
    schedule = pipeline.schedule
    sigmas = run_levels(
        SCHEDULERS[options.scheduler],
        options.steps,
        options.denoise,
        schedule,
        discard_penultimate=sampler.discard_penultimate,
    ).tolist()
    if not sigmas:
        return Detailed(latent, 0)
    latent_mask = None
    hardening = None
    if mask is not None:
        feathered = feather(mask, options.noise_mask_feather)
        latent_mask = to_latent(feathered, *latent.shape[-2:])
        if options.noise_mask_feather > 0:
            hardening = MaskSchedule.of_run(schedule, sigmas)
    steps_run = 0
    for cycle in range(options.cycle):
        now = next_seed(seed, cycle)
        noise = seeded_noise(now, latent.shape)
        kept = None
        if latent_mask is not None:
            outside = noise
            if sampler.mask_seed_offset:
                outside = seeded_noise(next_seed(now, sampler.mask_seed_offset), latent.shape)
            kept = LatentMask(latent_mask, latent, outside, hardening)
        run = Run(
            noise=step_noise(now, latent.shape),
            brownian=partial(brownian_tree, now, noise),
            schedule=schedule,
        )
        denoiser = Denoiser(pipeline.unet, contexts, options.cfg, kept)
        x = _noised(latent, noise, sigmas[0], schedule.sigma_max)
        sampled = yield from run_sampler(sampler, denoiser, x, sigmas, run)
        latent = sampled.denoised
        steps_run += sampled.steps
    return Detailed(latent, steps_run)


def _noised(
    latent: torch.Tensor, noise: torch.Tensor, sigma: float, sigma_max: float
) -> torch.Tensor:
    """The start of a run; from the schedule's largest σ the variance is that of pure noise."""
    from_pure_noise = sigma >= sigma_max * (1 - 1e-5)
    return noise * (math.sqrt(1 + sigma**2) if from_pure_noise else sigma) + latent
