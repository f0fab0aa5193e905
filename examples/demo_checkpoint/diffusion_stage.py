"""Trains what predicts noise: the UNet with its text encoder, its inpainting variant, a ControlNet.

All predict v (Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import nn
from torch.nn import functional

from examples.demo_checkpoint import networks
from examples.demo_checkpoint.shards import Shard
from examples.demo_checkpoint.tensors import sheet
from examples.demo_checkpoint.vocabulary import Vocabulary

_NO_CAPTION_SHARE = 0.1
_BATCH = 32
_SHOWN = 8
_GUIDANCE = 4.0
_REPAIR_FROM = 0.5
_SCHEDULER: Any = DDIMScheduler  # diffusers' classes are not typed


@dataclass(frozen=True)
class Batch:
    """Examples as in a :class:`Shard`, with ``tokens`` ``[B, 77]``; ``hints`` may be empty."""

    latents: torch.Tensor
    around: torch.Tensor
    masks: torch.Tensor
    hints: torch.Tensor
    tokens: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(*(each.to(device, non_blocking=True) for each in self.__dict__.values()))


class DiffusionStage:
    """A stage that trains some of a set of networks.

    Args:
        name: of the stage's folder.
        parts: all networks: ``unet`` and ``text``, with ``controlnet`` for a ControlNet.
        trained: names of those that are trained.
        shards: examples; the first is held out.
        vae: shows what is sampled.
        scale: how many times as many examples per step as a CPU is given.
        sample_steps: of a sample sheet's pictures.
    """

    learning_rate = 0.02

    def __init__(
        self,
        name: str,
        parts: dict[str, nn.Module],
        trained: tuple[str, ...],
        shards: list[Shard],
        vae: Any,
        vocabulary: Vocabulary,
        device: torch.device,
        steps: int,
        scale: int,
        sample_steps: int,
    ) -> None:
        self.name, self.steps = name, steps
        self._parts = nn.ModuleDict(parts).to(device)
        self.trained = nn.ModuleDict({each: parts[each] for each in trained})
        self._parts.requires_grad_(False)
        self.trained.requires_grad_(True)
        self._held_out, self._shards = shards[0], shards[1:]
        rng = np.random.default_rng(0)
        self._tokens = [vocabulary.encode(each.captions, rng) for each in self._shards]
        self._held_out_tokens = vocabulary.encode(self._held_out.captions)
        self._empty = vocabulary.encode([""])
        self._vae, self._device = vae, device
        self._batch, self._sample_steps = scale * _BATCH, sample_steps
        self._scheduler = _SCHEDULER.from_config(networks.SCHEDULER)
        unet: Any = parts["unet"]
        self._inpaints = unet.config.in_channels > networks.LATENT_CHANNELS

    def batches(self, first_step: int) -> Iterator[Batch]:
        """One batch per step, of one shard's size."""
        for step in range(first_step, self.steps):
            rng = np.random.default_rng([step, 0xD1FF])
            size = self._shards[int(rng.integers(len(self._shards)))].latents.shape
            alike = [i for i, each in enumerate(self._shards) if each.latents.shape == size]
            chosen = rng.choice(alike, self._batch // _BATCH)
            parts = [self._batch_of(self._shards[i], self._tokens[i], rng) for i in chosen]
            yield Batch(*(torch.cat(each) for each in zip(*map(_fields, parts), strict=True)))

    def _batch_of(self, shard: Shard, tokens: torch.Tensor, rng: np.random.Generator) -> Batch:
        rows = rng.choice(len(shard.captions), _BATCH, replace=False)
        dropped = torch.from_numpy(rng.random(_BATCH) < _NO_CAPTION_SHARE)[:, None]
        hints = shard.hints(rows) if "controlnet" in self._parts else torch.zeros(_BATCH, 0)
        return Batch(
            latents=shard.latents[rows].float(),
            around=shard.around[rows].float(),
            masks=shard.masks[rows].float(),
            hints=hints,
            tokens=torch.where(dropped, self._empty, tokens[rows]),
        )

    def losses(self, step: int, batch: Batch) -> dict[str, torch.Tensor]:
        """The mean squared error of v."""
        return {"loss": self._error(batch.to(self._device))}

    def _error(self, batch: Batch) -> torch.Tensor:
        noise = torch.randn_like(batch.latents)
        # Spread evenly over the batch, which makes the loss less noisy.
        share = (torch.rand(1) + torch.arange(len(noise)) / len(noise)) % 1
        timesteps = (share * self._scheduler.config.num_train_timesteps).long().to(self._device)
        noisy = self._scheduler.add_noise(batch.latents, noise, timesteps)
        wanted = self._scheduler.get_velocity(batch.latents, noise, timesteps)
        return functional.mse_loss(self._predict(noisy, timesteps, batch), wanted)

    def _predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, batch: Batch) -> torch.Tensor:
        text = self._parts["text"](batch.tokens).last_hidden_state
        residuals: dict[str, Any] = {}
        if "controlnet" in self._parts:
            down, middle = self._parts["controlnet"](
                noisy, timesteps, text, batch.hints, return_dict=False
            )
            residuals = {
                "down_block_additional_residuals": down,
                "mid_block_additional_residual": middle,
            }
        if self._inpaints:
            noisy = torch.cat([noisy, batch.masks, batch.around], dim=1)
        prediction: torch.Tensor = self._parts["unet"](noisy, timesteps, text, **residuals).sample
        return prediction

    def measure(self) -> tuple[dict[str, float], Image.Image]:
        """The loss on held-out examples. In rows: drawn, drawn from noise, and changed from
        half-way by the caption alone."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            batches = [
                self._batch_of(self._held_out, self._held_out_tokens, np.random.default_rng(seed))
                for seed in range(4)
            ]
            losses = [float(self._error(each.to(self._device))) for each in batches]
            captioned = Batch(*(each[:_SHOWN] for each in _fields(batches[0]))).to(self._device)
            rows = [
                captioned.latents,
                self._sample(captioned, 1.0),
                self._sample(captioned, _REPAIR_FROM),
            ]
        pictures = self._vae.decode(torch.cat(rows)).sample
        return {"held_out": round(sum(losses) / len(losses), 5)}, sheet(pictures, columns=_SHOWN)

    def _sample(self, batch: Batch, denoise: float) -> torch.Tensor:
        """The latents noised as far as ``denoise`` and freed from it again."""
        scheduler = self._scheduler
        scheduler.set_timesteps(self._sample_steps)
        timesteps = scheduler.timesteps[round((1 - denoise) * self._sample_steps) :]
        empty = self._empty.expand_as(batch.tokens).to(self._device)
        twice = Batch(*(torch.cat([each, each]) for each in _fields(batch)))
        both = Batch(**{**twice.__dict__, "tokens": torch.cat([batch.tokens, empty])})
        noise = torch.randn_like(batch.latents)
        latents: torch.Tensor = scheduler.add_noise(
            batch.latents, noise, timesteps[:1].to(self._device)
        )
        for timestep in timesteps:
            each = timestep.repeat(2 * len(latents)).to(self._device)
            positive, negative = self._predict(torch.cat([latents, latents]), each, both).chunk(2)
            guided = negative + _GUIDANCE * (positive - negative)
            latents = scheduler.step(guided, timestep, latents).prev_sample
        return latents


def _fields(batch: Batch) -> tuple[torch.Tensor, ...]:
    return tuple(batch.__dict__.values())
