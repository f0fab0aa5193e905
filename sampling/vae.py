"""Encoding of pixels and decoding of latents: programs that call the VAE's two networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines import Network, PipelineDescriptor
from sampling.program import NetworkCall, Program
from sampling.tiles import Grid
from segs_client.arrays import ByteArray

FACTOR = 8
"""Side of a latent cell in pixels."""
_COLOURS = 3

A = TypeVar("A", NDArray[np.uint8], torch.Tensor)


def to_values(pixels: ByteArray) -> torch.Tensor:
    """Pixels ``[H, W, 3]`` as float32 ``[1, 3, H', W']``, 0…1, cut to multiples of 8."""
    values = torch.from_numpy(np.ascontiguousarray(cut(pixels))).float() / 255
    return values.permute(2, 0, 1)[None]


def cut(array: A) -> A:
    """The centre of an array or tensor ``[H, W, …]``, with sides cut to multiples of 8."""
    (height, top), (width, left) = (
        (side - side % FACTOR, (side % FACTOR) // 2) for side in array.shape[:2]
    )
    return array[top : top + height, left : left + width]


def encode(descriptor: PipelineDescriptor, values: torch.Tensor) -> Program[torch.Tensor]:
    """Values ``[1, 3, 8h, 8w]`` as a scaled latent ``[1, c, h, w]``: the posterior's mean."""
    mean = yield from encoder(descriptor).run((values * 2 - 1).contiguous())
    return mean * descriptor.latent_scale


def decode(descriptor: PipelineDescriptor, latent: torch.Tensor) -> Program[torch.Tensor]:
    """A scaled latent ``[1, c, h, w]`` as the decoder's values ``[1, 3, 8h, 8w]``, −1…1."""
    return (yield from decoder(descriptor).run(latent / descriptor.latent_scale))


def to_pixels(decoded: torch.Tensor) -> ByteArray:
    """The decoder's values ``[1, 3, H, W]`` as pixels ``[H, W, 3]``, truncated."""
    values = ((decoded[0] + 1) / 2).clamp(0, 1)
    pixels: ByteArray = (values * 255).to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def encoder(descriptor: PipelineDescriptor) -> Half:
    network, channels = descriptor.networks["vae_encoder"], descriptor.latent_channels
    return Half(network, "sample", "latent_mean", _COLOURS, channels, FACTOR, 1)


def decoder(descriptor: PipelineDescriptor) -> Half:
    network, channels = descriptor.networks["vae_decoder"], descriptor.latent_channels
    return Half(network, "latent_sample", "sample", channels, _COLOURS, 1, FACTOR)


@dataclass(frozen=True)
class Half:
    """One of the VAE's networks.

    ``channels`` and ``channels_out`` are those of its input and its output; ``cell_in`` and
    ``cell_out`` are the sides of a latent cell in them.
    """

    network: Network
    input: str
    output: str
    channels: int
    channels_out: int
    cell_in: int
    cell_out: int

    def grid(self, height: int, width: int) -> Grid:
        """The tiles for a latent of ``height`` × ``width``: one if the network's bound allows."""
        bound = self.network.max_batch_elements
        cells = height * width if bound is None else bound // self.elements(1)
        longest = max((min(box.shape[1:]) for box in self.network.boxes), default=None)
        side = None if longest is None else longest // self.cell_in
        return Grid.of(height, width, cells, side)

    def elements(self, cells: int) -> int:
        """Elements of the network's input for a number of latent cells."""
        return cells * self.channels * self.cell_in**2

    def run(self, x: torch.Tensor) -> Program[torch.Tensor]:
        """The output ``[1, d, H', W']`` for an input ``[1, c, H, W]``."""
        height, width = (side // self.cell_in for side in x.shape[-2:])
        grid = self.grid(height, width)
        if grid.count == 1:
            return (yield from self._call(x))
        whole = torch.empty(0)
        # Each tile is added at once, so that only the whole and one tile are in memory.
        for number, tile in enumerate(grid.cut(x, self.cell_in)):
            made = yield from self._call(tile.contiguous())
            if number == 0:
                sides = height * self.cell_out, width * self.cell_out
                whole = made.new_zeros(1, made.shape[1], *sides)
            grid.add(whole, made, number, self.cell_out)
        return whole

    def _call(self, x: torch.Tensor) -> Program[torch.Tensor]:
        sides = (side // self.cell_in * self.cell_out for side in x.shape[-2:])
        wanted = {self.output: (self.channels_out, *sides)}
        outputs = yield NetworkCall(self.network.model, {self.input: x}, wanted)
        return outputs[self.output]
