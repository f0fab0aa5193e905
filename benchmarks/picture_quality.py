"""Figures of how good a redrawn picture is, against the drawing it should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segs_client.arrays import ByteArray

Mask = NDArray[np.float32]
Floats = NDArray[np.float64]

_SSIM_SIGMA_PX = 1.5
_SSIM_WINDOW_PX = 11
_SSIM_C1, _SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_EDGE_LOW, _EDGE_HIGH = 100, 200
_EDGE_TOLERANCE_PX = 1
_INSIDE = 0.95
"""A pixel belongs to a part that covers at least so much of it."""


def psnr_db(pixels: ByteArray, wanted: ByteArray, mask: Mask) -> float:
    """Peak signal to noise ratio where the mask ``[H, W]`` is; infinite for equal pictures."""
    error = np.square(pixels.astype(np.float64) - wanted).mean(axis=2)
    mean = float((error * mask).sum() / mask.sum())
    return float(10 * np.log10(255**2 / mean)) if mean > 0 else float("inf")


def ssim(pixels: ByteArray, wanted: ByteArray, mask: Mask) -> float:
    """Structural similarity of the grey pictures where the mask is (Wang et al. 2004: Gaussian
    window of σ 1.5, 11 pixels wide)."""
    x, y = _grey(pixels), _grey(wanted)
    mean_x, mean_y = _smoothed(x), _smoothed(y)
    variance_x = _smoothed(x * x) - mean_x**2
    variance_y = _smoothed(y * y) - mean_y**2
    covariance = _smoothed(x * y) - mean_x * mean_y
    structure = (2 * covariance + _SSIM_C2) / (variance_x + variance_y + _SSIM_C2)
    tone = (2 * mean_x * mean_y + _SSIM_C1) / (mean_x**2 + mean_y**2 + _SSIM_C1)
    return float((tone * structure * mask).sum() / mask.sum())


def sharpness(pixels: ByteArray, wanted: ByteArray, mask: Mask) -> float:
    """Energy of the picture's Laplacian where the mask is, as a share of the wanted picture's."""
    energies = [
        float((np.square(cv2.Laplacian(_grey(each), cv2.CV_64F)) * mask).sum())
        for each in (pixels, wanted)
    ]
    return energies[0] / energies[1]


def edge_f_score(pixels: ByteArray, wanted: ByteArray, mask: Mask) -> float:
    """Harmonic mean of precision and recall of Canny's edges where the mask is, one pixel
    forgiven; 1 where neither picture has any."""
    inside = mask >= _INSIDE
    found, expected = (
        (cv2.Canny(each, _EDGE_LOW, _EDGE_HIGH) > 0) & inside for each in (pixels, wanted)
    )
    if not found.any() and not expected.any():
        return 1.0
    if not found.any() or not expected.any():
        return 0.0
    precision = float(_near(expected)[found].mean())
    recall = float(_near(found)[expected].mean())
    return 2 * precision * recall / max(precision + recall, 1e-9)


def colour_name(
    pixels: ByteArray, mask: Mask, colours: Mapping[str, tuple[int, int, int]]
) -> str | None:
    """Which of the colours most of the part under the mask has, each pixel the nearest to it in
    CIELAB; None where the mask covers no pixel whole."""
    distances = _colour_distances(pixels, mask, colours)
    if not distances.shape[1]:
        return None
    counts = np.bincount(distances.argmin(axis=0), minlength=len(colours))
    return tuple(colours)[int(counts.argmax())]


def colour_distance(pixels: ByteArray, mask: Mask, colour: tuple[int, int, int]) -> float | None:
    """How far the part under the mask is from a colour: the median of its pixels' ΔE*ab
    (CIE 1976); None where the mask covers no pixel whole."""
    distances = _colour_distances(pixels, mask, {"": colour})
    return float(np.median(distances)) if distances.size else None


def _colour_distances(
    pixels: ByteArray, mask: Mask, colours: Mapping[str, tuple[int, int, int]]
) -> Floats:
    """``[colours, pixels inside the mask]``."""
    inside = _lab(pixels[mask >= _INSIDE])
    wanted = _lab(np.array(list(colours.values())))
    return np.asarray(np.linalg.norm(wanted[:, None] - inside[None], axis=2))


def _grey(pixels: ByteArray) -> Floats:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.float64)


def _smoothed(values: Floats) -> Floats:
    size = (_SSIM_WINDOW_PX, _SSIM_WINDOW_PX)
    return np.asarray(cv2.GaussianBlur(values, size, _SSIM_SIGMA_PX), dtype=np.float64)


def _near(edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    side = 2 * _EDGE_TOLERANCE_PX + 1
    grown = cv2.dilate(edges.astype(np.uint8), np.ones((side, side), np.uint8))
    return np.asarray(grown > 0)


def _lab(colours: NDArray[Any]) -> Floats:
    """``[N, 3]``, RGB of 0…255 → CIELAB."""
    rows = np.asarray(colours, dtype=np.float32)[None] / 255
    if not rows.size:
        return np.zeros((0, 3))
    return np.asarray(cv2.cvtColor(rows, cv2.COLOR_RGB2LAB)[0], dtype=np.float64)
