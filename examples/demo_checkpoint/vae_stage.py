"""Trains the autoencoder on crops of portraits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from examples.demo_checkpoint import degrade
from examples.demo_checkpoint.averages import start_from_averages
from examples.demo_checkpoint.networks import new_vae
from examples.demo_checkpoint.pictures import draw_portrait
from examples.demo_checkpoint.tensors import sheet, to_tensor

_PICTURE_PX = 160
_CROPS_PX = ((0.0, 32), (0.25, 64), (0.75, 128))
"""From which share of the steps on crops have which side: tones are learnt as well, and sooner, on
small ones; at the end normalisation sees whole pictures, as when the network is used."""
_CROPS = 16
_LARGE_CROPS = 4
_CROPS_PER_PICTURE = 4
_DEGRADED_SHARE = 0.15
_PERMUTED_SHARE = 0.3
_KL_WEIGHT = 1e-4
_HELD_OUT_SEED = 0xE7A1
_HELD_OUT = 16


class Crops(Dataset[torch.Tensor]):
    """Batches by step: ``[B, 3, H, W]``; ``scale`` times as many crops as a CPU is given."""

    def __init__(self, steps: int, scale: int) -> None:
        self.steps, self.scale = steps, scale

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> torch.Tensor:
        rng = np.random.default_rng([step, 0x7AE])
        side = [side for share, side in _CROPS_PX if step >= share * self.steps][-1]
        whole = side == _CROPS_PX[-1][1]
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
    """The stage; ``scale`` times as many crops per step as a CPU is given."""

    name = "vae"

    def __init__(
        self, device: torch.device, steps: int, scale: int, workers: int, compiled: bool
    ) -> None:
        torch.manual_seed(0)
        vae = new_vae()
        start_from_averages(vae)
        self.trained = vae.to(device, memory_format=torch.channels_last)
        self.steps, self.learning_rate = steps, 0.006
        self._device, self._scale, self._workers = device, scale, workers
        self._pass = torch.compile(self._encode_decode) if compiled else self._encode_decode
        rng = np.random.default_rng(_HELD_OUT_SEED)
        held_out = [draw_portrait(rng, 128, 128).pixels for _ in range(_HELD_OUT)]
        self._held_out = to_tensor(np.stack(held_out)).to(device)

    def batches(self, first_step: int) -> Iterable[torch.Tensor]:
        """One batch per step."""
        crops = Crops(self.steps, self._scale)
        remaining = range(first_step, self.steps)
        return DataLoader(
            crops,
            batch_size=None,
            sampler=remaining,
            num_workers=self._workers,
            # A forked worker hangs where the parent's threads hold locks.
            multiprocessing_context="spawn" if self._workers else None,
            worker_init_fn=_with_one_thread,
        )

    def losses(self, step: int, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the reconstruction lacks, in pixels, edges and tone, and the latent's KL."""
        pixels = batch.to(self._device, memory_format=torch.channels_last)
        seen, mean, log_variance = self._pass(pixels)
        error = seen - pixels
        losses = {
            "l1": error.abs().mean(),
            "l2": error.square().mean(),
            "edges": _edges(error),
            "tone": functional.avg_pool2d(error, 8).abs().mean(),
            "kl": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(),
        }
        pixel_loss = losses["l1"] + losses["l2"] + losses["edges"] + losses["tone"]
        return {"loss": pixel_loss + _KL_WEIGHT * losses["kl"], **losses}

    def _encode_decode(
        self, pixels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        posterior = self.trained.encode(pixels).latent_dist
        latent = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
        return self.trained.decode(latent).sample, posterior.mean, posterior.logvar

    def measure(self) -> tuple[dict[str, float], Image.Image]:
        """PSNR of held-out portraits; above each other: drawn, reconstructed."""
        latent = self.trained.encode(self._held_out).latent_dist.mean
        seen = self.trained.decode(latent).sample.clamp(-1, 1)
        error = ((seen - self._held_out) / 2).square().mean(dim=(1, 2, 3))
        psnr = float((-10 * error.log10()).mean())
        rows = [self._held_out[:8], seen[:8], self._held_out[8:], seen[8:]]
        return {"psnr_db": round(psnr, 3)}, sheet(torch.cat(rows), columns=8)


def _with_one_thread(worker: int) -> None:
    """The workers themselves are what runs side by side."""
    cv2.setNumThreads(1)


def _edges(error: torch.Tensor) -> torch.Tensor:
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return across + down


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
