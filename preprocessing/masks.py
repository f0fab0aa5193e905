"""Masks as float32 ``[h, w]`` arrays, 0…1: blur and resize."""

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


def resize_bilinear(mask: Mask, height: int, width: int) -> Mask:
    """Bilinear without antialiasing, pixel centres at ½ (torch's ``align_corners=False``)."""
    if mask.shape == (height, width):
        return mask
    top, bottom, y = _neighbours(mask.shape[0], height)
    left, right, x = _neighbours(mask.shape[1], width)
    y = y[:, None]
    one = np.float32(1)
    upper = mask[top][:, left] * (one - x) + mask[top][:, right] * x
    lower = mask[bottom][:, left] * (one - x) + mask[bottom][:, right] * x
    resized: Mask = upper * (one - y) + lower * y
    return resized


def _neighbours(
    size: int, new_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    scale = np.float32(size) / np.float32(new_size)
    at = scale * (np.arange(new_size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    at = np.maximum(at, np.float32(0))
    low = np.minimum(np.floor(at).astype(np.int64), size - 1)
    return low, np.minimum(low + 1, size - 1), (at - low.astype(np.float32)).astype(np.float32)
