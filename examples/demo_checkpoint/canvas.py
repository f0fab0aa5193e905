"""A canvas: antialiased shapes, and beside the picture which part each pixel shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from examples.demo_checkpoint.person import Colour

Points = NDArray[np.float64]  # [N, 2], x and y

OVERSAMPLING = 4
_FRACTION_BITS = 4
_CURVE_POINTS = 40


@dataclass(frozen=True)
class Frame:
    """Where a figure stands: its unit in pixels, its origin, how far it is turned clockwise."""

    x: float
    y: float
    unit_px: float
    turn_rad: float = 0.0

    def to_pixels(self, points: Points) -> Points:
        """``[N, 2]`` of the figure's own coordinates → pixels."""
        cosine, sine = np.cos(self.turn_rad), np.sin(self.turn_rad)
        turn = np.array([[cosine, sine], [-sine, cosine]])
        pixels: Points = points @ turn * self.unit_px + (self.x, self.y)
        return pixels


class Canvas:
    """A picture in the making, drawn at :data:`OVERSAMPLING` times its size.

    With ``labelled``, each shape's number is kept for every pixel that it covers last.
    """

    def __init__(self, width: int, height: int, ground: Colour, labelled: bool = False) -> None:
        self.size = (width, height)
        shape = (height * OVERSAMPLING, width * OVERSAMPLING)
        self._pixels = np.full((*shape, 3), ground, np.uint8)
        self._labels = np.zeros(shape, np.uint8) if labelled else None

    def fill(self, frame: Frame, points: Points, colour: Colour, label: int = 0) -> None:
        """A polygon, its corners ``[N, 2]`` in the frame's coordinates."""
        corners = [_fixed_point(frame.to_pixels(points))]
        cv2.fillPoly(self._pixels, corners, colour, shift=_FRACTION_BITS)
        if self._labels is not None:
            cv2.fillPoly(self._labels, corners, (label,), shift=_FRACTION_BITS)

    def stroke(
        self, frame: Frame, points: Points, width: float, colour: Colour, label: int = 0
    ) -> None:
        """An open line with round ends, ``width`` in the frame's unit."""
        path = [_fixed_point(frame.to_pixels(points))]
        thickness = max(1, round(width * frame.unit_px * OVERSAMPLING))
        form: dict[str, int] = {"thickness": thickness, "shift": _FRACTION_BITS}
        cv2.polylines(self._pixels, path, False, colour, **form)
        if self._labels is not None:
            cv2.polylines(self._labels, path, False, (label,), **form)

    def picture(self) -> NDArray[np.uint8]:
        """``[H, W, 3]`` RGB."""
        return np.asarray(self._smaller(self._pixels), dtype=np.uint8)

    def coverage(self, labels: Sequence[int]) -> NDArray[np.float32]:
        """How much of each pixel shows one of the labels: ``[H, W]``, 0…1."""
        if self._labels is None:
            raise ValueError("coverage: the canvas was made without labels")
        table = np.isin(np.arange(256), labels).astype(np.float32)
        return np.asarray(self._smaller(cv2.LUT(self._labels, table)), dtype=np.float32)

    def _smaller(self, values: Any) -> Any:
        return cv2.resize(values, self.size, interpolation=cv2.INTER_AREA)


def ellipse(x: float, y: float, width: float, height: float) -> Points:
    """An ellipse by its centre and half axes."""
    return arc(x, y, width, height, 0, 2 * np.pi)


def arc(x: float, y: float, width: float, height: float, start: float, end: float) -> Points:
    """A part of an ellipse; angles in radians from the right, clockwise."""
    angles = np.linspace(start, end, _CURVE_POINTS)
    return np.stack([x + width * np.cos(angles), y + height * np.sin(angles)], axis=1)


def polygon(*points: tuple[float, float]) -> Points:
    """Points given one by one."""
    return np.array(points, dtype=np.float64)


def _fixed_point(pixels: Points) -> NDArray[np.int32]:
    scaled = (pixels * OVERSAMPLING - 0.5) * (1 << _FRACTION_BITS)
    return np.asarray(np.round(scaled), dtype=np.int32)
