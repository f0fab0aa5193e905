"""The Gaussian blur that softens a mask's edge."""

from __future__ import annotations

import numpy as np

from segs_client.arrays import FloatArray

BLUR_SIGMA = 10.0
"""σ of the detailer's and of pasting's blur in pixels, independent of its radius."""

_BAND_VALUES = 1 << 15  # of a band of rows that fits into the CPU's cache


def blur_kernel_size(radius: int, shape: tuple[int, int]) -> int:
    """Side of the blur's kernel for a mask ``(h, w)``; 0 means no blur.

    2·radius + 1; for masks no larger than that, half their shorter side, made odd.

    Example:
        >>> blur_kernel_size(5, (50, 50)), blur_kernel_size(20, (50, 40))
        (11, 21)
    """
    size = 2 * radius + 1
    shorter = min(shape)
    if shorter <= size:
        size = shorter // 2
        size += 1 - size % 2
    return size if size >= 3 else 0


def blur(mask: FloatArray, radius: int, sigma: float = BLUR_SIGMA) -> FloatArray:
    """Gaussian blur of a mask ``[h, w]`` with reflect padding.

    Args:
        mask: float32, 0..1; by rounding, its blur may exceed 1 in the last digit.
        radius: of the kernel in pixels, see :func:`blur_kernel_size`; 0 for none.
        sigma: σ in pixels, above 0; the detailer's and pasting's is 10.

    Example:
        >>> step = np.repeat(np.float32([[0, 1]]), 20, axis=1).repeat(40, axis=0)
        >>> blur(step, 1)[0, 18:22].round(2)
        array([0.  , 0.33, 0.67, 1.  ], dtype=float32)
    """
    size = blur_kernel_size(radius, (mask.shape[0], mask.shape[1]))
    if size == 0:
        return mask
    at = np.arange(size, dtype=np.float32) - np.float32(size // 2)
    line = np.exp(np.float32(-0.5) * (at / np.float32(sigma)) ** 2)
    line /= line.sum()
    line = line[line >= np.finfo(np.float32).tiny]  # subnormal numbers are slow
    return _convolve_rows(_convolve_rows(mask, line).T, line).T


def _convolve_rows(mask: FloatArray, line: FloatArray) -> FloatArray:
    half = len(line) // 2
    padded = np.pad(np.ascontiguousarray(mask), ((half, half), (0, 0)), mode="reflect")
    out = np.zeros(mask.shape, np.float32)
    rows = max(1, _BAND_VALUES // mask.shape[1])
    for top in range(0, len(mask), rows):
        band = out[top : top + rows]
        weighted = np.empty_like(band)
        for at, weight in enumerate(line, start=top):
            np.multiply(weight, padded[at : at + len(band)], out=weighted)
            band += weighted
    return out
