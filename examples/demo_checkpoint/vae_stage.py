"""Trains the autoencoder on crops of portraits, then its decoder alone on latents that are not
quite right, as those that a diffusion network makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from examples.demo_checkpoint import degrade
from examples.demo_checkpoint.averages import start_from_averages
from examples.demo_checkpoint.networks import new_vae
from examples.demo_checkpoint.pictures import draw_portrait
from examples.demo_checkpoint.tensors import sheet, to_tensor

_PICTURE_PX = 160
_CROPS_PX = ((0.0, 32), (0.25, 64), (0.75, 128))
"""Of the autoencoder: from which share of the steps on crops have which side: tones are learnt as
well, and sooner, on small ones; at the end normalisation sees whole pictures, as in use."""
_WHOLE_PX = 128
_CROPS = 16
_LARGE_CROPS = 4
_CROPS_PER_PICTURE = 4
_DEGRADED_SHARE = 0.15
_PERMUTED_SHARE = 0.3
_KL_WEIGHT = 1e-4
_MOST_NOISE = 0.3
"""What a decoder's latents, of variance 1, are off by at most: a standard deviation."""
_SHOWN_NOISE = 0.15
_HELD_OUT_SEED = 0xE7A1
_HELD_OUT = 16


class Crops(Dataset[torch.Tensor]):
    """Batches by step: ``[B, 3, H, W]``; ``scale`` times as many crops as a CPU is given.

    ``sides`` has the crops' sides, each with the share of the steps that it begins at.
    """

    def __init__(
        self, steps: int, scale: int, sides: Sequence[tuple[float, int]] = _CROPS_PX
    ) -> None:
        self.steps, self.scale, self.sides = steps, scale, sides

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> torch.Tensor:
        rng = np.random.default_rng([step, 0x7AE])
        side = [side for share, side in self.sides if step >= share * self.steps][-1]
        whole = side == _WHOLE_PX
        batch = self.scale * (_LARGE_CROPS if whole else _CROPS)
        crops: list[NDArray[np.uint8]] = []
        while len(crops) < batch:
            picture = draw_portrait(rng, _PICTURE_PX, _PICTURE_PX).pixels
            if rng.random() < _DEGRADED_SHARE:
                picture = degrade.degrade(picture, degrade.by_lot(rng))
            for _ in range(1 if whole else _CROPS_PER_PICTURE):
                top, left = rng.integers(_PICTURE_PX - side + 1, size=2)
                crop = picture[top : top + side, left : left + side]
                permuted = rng.random() < _PERMUTED_SHARE
                crops.append(crop[:, :, rng.permutation(3)] if permuted else crop)
        return to_tensor(np.stack(crops))


class VaeStage:
    """The autoencoder's stage; ``scale`` times as many crops per step as a CPU is given."""

    name = "vae"

    def __init__(
        self, device: torch.device, steps: int, scale: int, workers: int, compiled: bool
    ) -> None:
        torch.manual_seed(0)
        vae = new_vae()
        start_from_averages(vae)
        self.trained = vae.to(device, memory_format=torch.channels_last)
        self.steps, self.learning_rate = steps, 0.006
        self._device, self._workers = device, workers
        self._crops = Crops(steps, scale)
        self._pass = torch.compile(self._encode_decode) if compiled else self._encode_decode
        self._held_out = _held_out().to(device)

    def batches(self, first_step: int) -> Iterable[torch.Tensor]:
        """One batch per step."""
        return _loader(self._crops, first_step, self._workers)

    def losses(self, step: int, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the reconstruction lacks, and the latent's KL."""
        pixels = batch.to(self._device, memory_format=torch.channels_last)
        seen, mean, log_variance = self._pass(pixels)
        lacks = _lacks(seen - pixels)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return {"loss": sum(lacks.values(), _KL_WEIGHT * kl), **lacks, "kl": kl}

    def _encode_decode(
        self, pixels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        posterior = self.trained.encode(pixels).latent_dist
        latent = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
        return self.trained.decode(latent).sample, posterior.mean, posterior.logvar

    def measure(self) -> tuple[dict[str, float], Image.Image]:
        """PSNR of held-out portraits; above each other: drawn, reconstructed."""
        seen, psnr = _reconstructed(self.trained, self._held_out, noise=0)
        rows = [self._held_out[:8], seen[:8], self._held_out[8:], seen[8:]]
        return {"psnr_db": psnr}, sheet(torch.cat(rows), columns=8)


class DecoderStage:
    """Goes on with the decoder alone, of an autoencoder whose latents are normalized.

    Noise on the latents, of a strength by lot, makes it forgive what a diffusion network gets
    wrong; the encoder, and so what such a network is trained on, stays as it is.
    """

    name = "decoder"
    part_names = ("decoder.", "post_quant_conv.")
    """What the names of its weights begin with."""

    def __init__(
        self, vae: Any, device: torch.device, steps: int, scale: int, workers: int
    ) -> None:
        self._vae = vae.to(device, memory_format=torch.channels_last)
        self.trained: nn.Module = nn.ModuleDict(
            {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
        )
        self.trained.requires_grad_(True)
        self.steps, self.learning_rate = steps, 0.004
        self._device, self._workers = device, workers
        self._crops = Crops(steps, scale, ((0.0, _WHOLE_PX),))
        self._held_out = _held_out().to(device)

    def batches(self, first_step: int) -> Iterable[torch.Tensor]:
        """One batch per step."""
        return _loader(self._crops, first_step, self._workers)

    def losses(self, step: int, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the pictures of latents with noise lack."""
        pixels = batch.to(self._device, memory_format=torch.channels_last)
        with torch.no_grad():
            latent = self._vae.encode(pixels).latent_dist.mean
        strength = _MOST_NOISE * torch.rand(len(latent), 1, 1, 1, device=self._device)
        seen = self._vae.decode(latent + strength * torch.randn_like(latent)).sample
        lacks = _lacks(seen - pixels)
        return {"loss": sum(lacks.values(), torch.zeros((), device=self._device)), **lacks}

    def measure(self) -> tuple[dict[str, float], Image.Image]:
        """PSNR of held-out portraits, from their latents and from those with some noise; above
        each other: drawn, from the latent, from the one with noise."""
        clean, psnr = _reconstructed(self._vae, self._held_out, noise=0)
        noisy, noisy_psnr = _reconstructed(self._vae, self._held_out, _SHOWN_NOISE)
        rows = [self._held_out[:8], clean[:8], noisy[:8]]
        return {"psnr_db": psnr, "noisy_psnr_db": noisy_psnr}, sheet(torch.cat(rows), columns=8)


def _held_out() -> torch.Tensor:
    rng = np.random.default_rng(_HELD_OUT_SEED)
    side = _WHOLE_PX
    return to_tensor(np.stack([draw_portrait(rng, side, side).pixels for _ in range(_HELD_OUT)]))


def _reconstructed(vae: Any, pictures: torch.Tensor, noise: float) -> tuple[torch.Tensor, float]:
    """The pictures through the autoencoder, and their mean PSNR."""
    latent = vae.encode(pictures).latent_dist.mean
    generator = torch.Generator().manual_seed(0)
    latent = latent + noise * torch.randn(latent.shape, generator=generator).to(latent.device)
    seen = vae.decode(latent).sample.clamp(-1, 1)
    error = ((seen - pictures) / 2).square().mean(dim=(1, 2, 3))
    return seen, round(float((-10 * error.log10()).mean()), 3)


def _loader(crops: Crops, first_step: int, workers: int) -> Iterable[torch.Tensor]:
    return DataLoader(
        crops,
        batch_size=None,
        sampler=range(first_step, len(crops)),
        num_workers=workers,
        # A forked worker hangs where the parent's threads hold locks.
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_with_one_thread,
    )


def _with_one_thread(worker: int) -> None:
    """The workers themselves are what runs side by side."""
    cv2.setNumThreads(1)


def _lacks(error: torch.Tensor) -> dict[str, torch.Tensor]:
    """Losses of a picture's error: in pixels, edges and tone."""
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return {
        "l1": error.abs().mean(),
        "l2": error.square().mean(),
        "edges": across + down,
        "tone": functional.avg_pool2d(error, 8).abs().mean(),
    }


def normalize_latents(vae: Any, pictures: int = 64) -> None:
    """Changes the convolutions around the latent so that each of its channels has mean 0 and
    variance 1; what the network reconstructs stays the same."""
    rng = np.random.default_rng(0x1A7E)
    drawn = np.stack([draw_portrait(rng, 128, 128).pixels for _ in range(pictures)])
    with torch.no_grad():
        means = [
            vae.encode(to_tensor(part)).latent_dist.mean
            for part in np.array_split(drawn, max(1, pictures // 16))
        ]
        values = torch.cat(means)
        mean, std = values.mean(dim=(0, 2, 3)), values.std(dim=(0, 2, 3))
        channels = len(mean)
        before, after = vae.quant_conv, vae.post_quant_conv
        after.bias += (after.weight[:, :, 0, 0] * mean).sum(dim=1)
        after.weight *= std[None, :, None, None]
        before.weight[:channels] /= std[:, None, None, None]
        before.bias[:channels] = (before.bias[:channels] - mean) / std
        before.bias[channels:] -= 2 * std.log()
