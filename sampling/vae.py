"""Pictures to latents and back: programs around the VAE's two networks."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines import PipelineDescriptor
from sampling.program import Call, Program

FACTOR = 8
"""Pixels to a latent cell, each way."""

Pixels = NDArray[np.uint8]
A = TypeVar("A", NDArray[np.uint8], torch.Tensor)


def to_values(pixels: Pixels) -> torch.Tensor:
    """Pixels ``[H, W, 3]`` as float32 ``[1, 3, H', W']``, 0…1, cut to multiples of 8."""
    values = torch.from_numpy(np.ascontiguousarray(cut(pixels))).float() / 255
    return values.permute(2, 0, 1)[None]


def cut(array: A) -> A:
    """The middle of an array or tensor ``[H, W, …]``, its sides cut to multiples of 8."""
    (height, top), (width, left) = (
        (side - side % FACTOR, (side % FACTOR) // 2) for side in array.shape[:2]
    )
    return array[top : top + height, left : left + width]


def encode(descriptor: PipelineDescriptor, values: torch.Tensor) -> Program[torch.Tensor]:
    """Values ``[1, 3, 8h, 8w]`` as a scaled latent ``[1, c, h, w]``: the posterior's mean."""
    vae = descriptor.networks["vae_encoder"]
    outputs = yield Call(vae.model, {"sample": (values * 2 - 1).contiguous()})
    return outputs["latent_mean"] * descriptor.latent_scale


def decode(descriptor: PipelineDescriptor, latent: torch.Tensor) -> Program[Pixels]:
    """A scaled latent ``[1, c, h, w]`` as pixels ``[8h, 8w, 3]``, truncated."""
    vae = descriptor.networks["vae_decoder"]
    outputs = yield Call(vae.model, {"latent_sample": latent / descriptor.latent_scale})
    values = ((outputs["sample"][0] + 1) / 2).clamp(0, 1)
    pixels: Pixels = (values * 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return pixels
