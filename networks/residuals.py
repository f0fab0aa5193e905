"""The feature maps that a ControlNet adds to its UNet's: their names, channels and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from networks.base import Axis, TensorSpec

MID = "mid_residual"


@dataclass(frozen=True)
class Residual:
    """One feature map ``[B, channels, h, w]``, for a latent halved ``level`` times."""

    name: str
    channels: int
    level: int

    @property
    def tensor(self) -> TensorSpec:
        """The UNet's input, and the ControlNet's output."""
        return TensorSpec(self.name, "FP32", (self.channels, f"{self.name}_h", f"{self.name}_w"))

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The least size is 1: without a ControlNet, one zero per channel replaces the full
        maps."""
        opt, most = (_halved(size, self.level) for size in (64, 256))
        return tuple(Axis(f"{self.name}_{side}", 1, opt, most) for side in "hw")

    def sizes(self, height: int, width: int) -> dict[str, int]:
        """Sizes of the axes for a latent."""
        return {
            f"{self.name}_h": _halved(height, self.level),
            f"{self.name}_w": _halved(width, self.level),
        }


def residuals(config: Mapping[str, Any]) -> tuple[Residual, ...]:
    """The residuals of a UNet or a ControlNet in the order of its skip connections, the middle
    block's last.

    Args:
        config: diffusers' configuration of the UNet or ControlNet.
    """
    widths: list[int] = config["block_out_channels"]
    layers = config.get("layers_per_block", 2)
    counts = layers if isinstance(layers, (list, tuple)) else [layers] * len(widths)
    maps = [(widths[0], 0)]
    last = len(widths) - 1
    for level, (width, count) in enumerate(zip(widths, counts, strict=True)):
        maps += [(width, level)] * count
        if level < last:
            maps.append((width, level + 1))
    down = (Residual(f"down_residual_{i}", *each) for i, each in enumerate(maps))
    return (*down, Residual(MID, widths[last], last))


def _halved(size: int, times: int) -> int:
    """Half of a size; a convolution of stride 2 rounds up."""
    return -(-size >> times)
