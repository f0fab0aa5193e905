"""Between pictures and tensors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image


def to_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """``[B, H, W, 3]`` 0…255 → ``[B, 3, H, W]`` −1…1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(values: torch.Tensor) -> NDArray[np.uint8]:
    """``[B, 3, H, W]`` −1…1 → ``[B, H, W, 3]`` 0…255."""
    scaled = ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def sheet(values: torch.Tensor, columns: int) -> Image.Image:
    """Pictures ``[B, 3, H, W]`` side by side in rows."""
    pixels = to_pixels(values)
    rows = [
        np.concatenate(list(pixels[first : first + columns]), axis=1)
        for first in range(0, len(pixels), columns)
    ]
    return Image.fromarray(np.concatenate(rows))
