"""Spoils a picture as mail and messengers do: blurred, shrunk and enlarged again, JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from segs_client.arrays import ByteArray


@dataclass(frozen=True)
class Degradation:
    """How far a picture is spoilt.

    ``blur_px`` is a Gaussian's σ; ``shrink`` how many times smaller it is made before it is
    enlarged again; ``jpeg_quality`` 1…100.
    """

    blur_px: float = 1.2
    shrink: float = 3.0
    jpeg_quality: int = 25


def degrade(pixels: ByteArray, how: Degradation) -> ByteArray:
    """The picture ``[H, W, 3]`` spoilt, in its old size."""
    height, width = pixels.shape[:2]
    blurred = cv2.GaussianBlur(pixels, (0, 0), how.blur_px)
    small = (max(1, round(width / how.shrink)), max(1, round(height / how.shrink)))
    shrunk = cv2.resize(blurred, small, interpolation=cv2.INTER_AREA)
    packed = cv2.imencode(".jpg", shrunk[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, how.jpeg_quality])[
        1
    ]
    unpacked = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    enlarged = cv2.resize(unpacked, (width, height), interpolation=cv2.INTER_LINEAR)
    return cast(ByteArray, np.ascontiguousarray(enlarged[:, :, ::-1]))


def by_lot(rng: np.random.Generator) -> Degradation:
    """A degradation at random, from hardly visible to strong."""
    return Degradation(
        blur_px=float(rng.uniform(0.3, 2.0)),
        shrink=float(rng.uniform(1.0, 4.0)),
        jpeg_quality=int(rng.integers(15, 90)),
    )
