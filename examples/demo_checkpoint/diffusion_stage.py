"""Trains what predicts noise: the UNet with its text encoder, its inpainting variant, a ControlNet.

All predict v (Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models").
Of what they see, 60 % is noise over a spoilt picture whose clean drawing they are to find; so image
to image with little noise repairs a picture, instead of sharpening what is wrong in it. Some of
these have other colours than the caption says, which then has to be followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from examples.demo_checkpoint import networks
from examples.demo_checkpoint.shards import Shard
from examples.demo_checkpoint.tensors import sheet
from examples.demo_checkpoint.vocabulary import Vocabulary

_NO_CAPTION_SHARE = 0.1
_SPOILT_SHARE = 0.6
_SPOILT_WEIGHT = 10.0
"""Times the noise's variance, at most 1: how a spoilt example's error of v is weighed; one that is
changed as well is weighed by the variance itself."""
_BATCH_CELLS = 32 * 16 * 16
"""Of the latents of one shard in a batch: small pictures are many, large ones few, and a step takes
as long with either."""
_SHOWN = 8
_GUIDANCE = 4.0
_CHANGE_FROM = 0.5
_REPAIR_FROM = 0.2


@dataclass(frozen=True)
class Batch:
    """Examples as in a :class:`Shard`, with ``tokens`` ``[B, 77]``; ``hints`` may be empty."""

    latents: torch.Tensor
    spoilt: torch.Tensor
    changed: torch.Tensor
    around: torch.Tensor
    masks: torch.Tensor
    weights: torch.Tensor
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
        compiled: train with torch.compile, once for each size of shard.
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
        compiled: bool,
    ) -> None:
        self.name, self.steps = name, steps
        modules: Any = nn.ModuleDict(parts)  # its types lack a format beside a device
        self._parts: nn.ModuleDict = modules.to(device, memory_format=torch.channels_last)
        self._fast = {
            each: torch.compile(part, dynamic=False) if compiled and each != "text" else part
            for each, part in parts.items()
        }
        self.trained = nn.ModuleDict({each: parts[each] for each in trained})
        self._parts.requires_grad_(False)
        self.trained.requires_grad_(True)
        self._held_out, self._shards = shards[0], shards[1:]
        rng = np.random.default_rng(0)
        self._tokens = [vocabulary.encode(each.captions, rng) for each in self._shards]
        self._held_out_tokens = vocabulary.encode(self._held_out.captions)
        self._empty = vocabulary.encode([""])
        self._vae, self._device = vae, device
        self._scale, self._sample_steps = scale, sample_steps
        self._scheduler = networks.new_scheduler()
        unet: Any = parts["unet"]
        self._inpaints = unet.config.in_channels > networks.LATENT_CHANNELS

    def batches(self, first_step: int) -> Iterator[Batch]:
        """One batch per step, of one shard's size."""
        for step in range(first_step, self.steps):
            rng = np.random.default_rng([step, 0xD1FF])
            size = self._shards[int(rng.integers(len(self._shards)))].latents.shape
            alike = [i for i, each in enumerate(self._shards) if each.latents.shape == size]
            chosen = rng.choice(alike, self._scale)
            parts = [self._batch_of(self._shards[i], self._tokens[i], rng) for i in chosen]
            yield Batch(*(torch.cat(each) for each in zip(*map(_fields, parts), strict=True)))

    def _batch_of(self, shard: Shard, tokens: torch.Tensor, rng: np.random.Generator) -> Batch:
        height, width = shard.latents.shape[2:]
        count = min(_BATCH_CELLS // (height * width), len(shard.captions))
        rows = rng.choice(len(shard.captions), count, replace=False)
        dropped = torch.from_numpy(rng.random(count) < _NO_CAPTION_SHARE)[:, None]
        hints = shard.hints(rows) if "controlnet" in self._parts else torch.zeros(count, 0)
        latents, changed = shard.latents[rows].float(), shard.changed[rows, None, None, None]
        # Without its caption nothing tells what was changed.
        unknown = changed & dropped[:, :, None, None]
        return Batch(
            latents=latents,
            spoilt=torch.where(unknown, latents, shard.spoilt[rows].float()),
            changed=changed,
            around=shard.around[rows].float(),
            masks=shard.masks[rows].float(),
            weights=shard.weights[rows].float(),
            hints=hints,
            tokens=torch.where(dropped, self._empty, tokens[rows]),
        )

    def losses(self, step: int, batch: Batch) -> dict[str, torch.Tensor]:
        """The weighted squared error of v, of a batch of which a part is spoilt."""
        batch = batch.to(self._device)
        spoilt = torch.rand(len(batch.latents), 1, 1, 1) < _SPOILT_SHARE
        share = (torch.rand_like(spoilt, dtype=torch.float32) * spoilt).to(self._device)
        return {"loss": (batch.weights * self._error(batch, share)).mean()}

    def _error(self, batch: Batch, spoilt: torch.Tensor | None = None) -> torch.Tensor:
        """The squared error of every example's v, ``[B, 4, h, w]``.

        ``spoilt`` ``[B, 1, 1, 1]`` is the share of the way from the clean drawing to the spoilt
        one that the noise is added to: sampling goes all of it, from 1 to 0. The v wanted is the
        one that leads to the clean drawing, whatever the share; as it has no bound without noise,
        such an example weighs less where there is hardly any.
        """
        noise = torch.randn_like(batch.latents)
        # Spread evenly over the batch, which makes the loss less noisy.
        share = (torch.rand(1) + torch.arange(len(noise)) / len(noise)) % 1
        timesteps = (share * self._scheduler.config.num_train_timesteps).long().to(self._device)
        if spoilt is None:
            spoilt = torch.zeros(len(noise), 1, 1, 1, device=self._device)
        under = torch.lerp(batch.latents, batch.spoilt, spoilt)
        noisy = self._scheduler.add_noise(under, noise, timesteps)
        kept = self._scheduler.alphas_cumprod.to(self._device)[timesteps].view(-1, 1, 1, 1)
        wanted = velocity_to(batch.latents, noisy, kept)
        bounded = torch.where(batch.changed, 1 - kept, (_SPOILT_WEIGHT * (1 - kept)).clamp(max=1))
        weight = torch.where(spoilt > 0, bounded, torch.ones_like(kept))
        error: torch.Tensor = weight * (self._predict(noisy, timesteps, batch) - wanted).square()
        return error

    def _predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, batch: Batch) -> torch.Tensor:
        parts: Any = self._fast if torch.is_grad_enabled() else self._parts
        text = parts["text"](batch.tokens).last_hidden_state
        residuals: dict[str, Any] = {}
        if "controlnet" in self._parts:
            down, middle = parts["controlnet"](
                noisy, timesteps, text, batch.hints, return_dict=False
            )
            residuals = {
                "down_block_additional_residuals": down,
                "mid_block_additional_residual": middle,
            }
        if self._inpaints:
            noisy = torch.cat([noisy, batch.masks, batch.around], dim=1)
        prediction: torch.Tensor = parts["unet"](noisy, timesteps, text, **residuals).sample
        return prediction

    def measure(self) -> tuple[dict[str, float], Image.Image]:
        """Of held-out examples: the loss on clean drawings, and what a repair leaves of the
        spoilt ones' squared error.

        In rows: drawn, drawn from noise, changed from half-way by the caption alone, spoilt,
        repaired.
        """
        with torch.random.fork_rng():
            torch.manual_seed(1)
            batches = [
                self._batch_of(self._held_out, self._held_out_tokens, np.random.default_rng(seed))
                for seed in range(4)
            ]
            losses = [float(self._error(each.to(self._device)).mean()) for each in batches]
            few = Batch(*(each[:_SHOWN] for each in _fields(batches[0]))).to(self._device)
            repaired = self._sample(few, few.spoilt, _REPAIR_FROM)
            rows = [
                few.latents,
                self._sample(few, few.latents, 1.0),
                self._sample(few, few.latents, _CHANGE_FROM),
                few.spoilt,
                repaired,
            ]
        left, before = ((each - few.latents).square().mean() for each in (repaired, few.spoilt))
        figures = {
            "held_out": round(sum(losses) / len(losses), 5),
            "error_left": round(float(left / before), 3),
        }
        pictures = self._vae.decode(torch.cat(rows)).sample
        return figures, sheet(pictures, columns=_SHOWN)

    def _sample(self, batch: Batch, under: torch.Tensor, denoise: float) -> torch.Tensor:
        """The latents ``under`` noised as far as ``denoise`` and freed from it again."""
        scheduler = self._scheduler
        scheduler.set_timesteps(self._sample_steps)
        count = max(1, round(denoise * self._sample_steps))
        timesteps = scheduler.timesteps[-count:]
        empty = self._empty.expand_as(batch.tokens).to(self._device)
        twice = Batch(*(torch.cat([each, each]) for each in _fields(batch)))
        both = Batch(**{**twice.__dict__, "tokens": torch.cat([batch.tokens, empty])})
        noise = torch.randn_like(batch.latents)
        latents: torch.Tensor = scheduler.add_noise(under, noise, timesteps[:1].to(self._device))
        for timestep in timesteps:
            each = timestep.repeat(2 * len(latents)).to(self._device)
            positive, negative = self._predict(torch.cat([latents, latents]), each, both).chunk(2)
            guided = negative + _GUIDANCE * (positive - negative)
            latents = scheduler.step(guided, timestep, latents).prev_sample
        return latents


def velocity_to(clean: torch.Tensor, noisy: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The v that leads from noisy latents to these clean ones, whatever lies under the noise.

    ``kept`` is the share of the variance that is not noise, ᾱ.
    """
    return (kept.sqrt() * noisy - clean) / (1 - kept).sqrt()


def _fields(batch: Batch) -> tuple[torch.Tensor, ...]:
    return tuple(batch.__dict__.values())
