"""Masks as float32 ``[h, w]`` arrays, 0…1: their blur."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.float32]

BLUR_SIGMA = 10.0
"""σ of every mask blur in pixels, whatever its radius."""


def blur_kernel_size(radius: int, shape: tuple[int, int]) -> int:
    """Side of the blur's kernel for a mask ``(h, w)``; 0 means no blur.

    2·radius + 1, but for masks no larger than that: half their shorter side, made odd.
    """
    size = 2 * radius + 1
    shorter = min(shape)
    if shorter <= size:
        size = shorter // 2
        size += 1 - size % 2
    return size if size >= 3 else 0


def blur(mask: Mask, radius: int) -> Mask:
    """Gaussian blur with σ = 10 px and reflect padding."""
    size = blur_kernel_size(radius, (mask.shape[0], mask.shape[1]))
    if size == 0:
        return mask
    at = np.arange(size, dtype=np.float32) - np.float32(size // 2)
    line = np.exp(np.float32(-0.5) * (at / np.float32(BLUR_SIGMA)) ** 2)
    line /= line.sum()
    return _convolve_rows(_convolve_rows(mask, line).T, line).T


def _convolve_rows(mask: Mask, line: NDArray[np.float32]) -> Mask:
    half = len(line) // 2
    padded = np.pad(mask, ((half, half), (0, 0)), mode="reflect")
    out = np.zeros_like(mask)
    for at, weight in enumerate(line):
        out += weight * padded[at : at + mask.shape[0]]
    return out
