"""Control images: a ControlNet's hint, made from the crop of a SEG."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import entry_points

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from preprocessing.images import read_buffer
from request_plan.packing import Packer
from request_plan.plan import Piece, PlannedControl
from segs_client.arrays import ByteArray, resize_lanczos, to_pixels
from segs_client.contract import Box, Buffer, ControlNet, invalid

ENTRY_POINT_GROUP = "segs_detailer.preprocessors"
"""Packages add preprocessors here: a name and a function of pixels ``[h, w, 3]`` to the same."""

_CANNY_LOW, _CANNY_HIGH = 100, 200
_BLUR_RADIUS_PX = 8

Preprocessor = Callable[[ByteArray], ByteArray]


def canny(pixels: ByteArray) -> ByteArray:
    """Edges by Canny (OpenCV, thresholds 100 and 200), white on black."""
    import cv2  # large, so imported only when used

    return _three_channels(np.asarray(cv2.Canny(pixels, _CANNY_LOW, _CANNY_HIGH), dtype=np.uint8))


def sobel(pixels: ByteArray) -> ByteArray:
    """Magnitude of the grey picture's gradient (Sobel, 3×3); the largest is white."""
    import cv2

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    strength = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    scaled = strength * (255 / max(float(strength.max()), 1.0))
    return _three_channels(scaled.astype(np.uint8))


def gray(pixels: ByteArray) -> ByteArray:
    """Luma in all three channels."""
    return _three_channels(np.asarray(Image.fromarray(pixels).convert("L")))


def invert(pixels: ByteArray) -> ByteArray:
    """Inverted colours."""
    return np.asarray(ImageOps.invert(Image.fromarray(pixels)))


def blur(pixels: ByteArray) -> ByteArray:
    """Gaussian blur, 8 px."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(_BLUR_RADIUS_PX)))


def _three_channels(grey: ByteArray) -> ByteArray:
    return np.repeat(grey[:, :, None], 3, axis=2)


_OWN: Mapping[str, Preprocessor] = {
    "none": lambda pixels: pixels,
    "canny": canny,
    "sobel": sobel,
    "gray": gray,
    "invert": invert,
    "blur": blur,
}


@functools.cache
def preprocessors() -> dict[str, Preprocessor]:
    """The preprocessors by name: the built-in ones and those of installed packages."""
    found = {point.name: point.load() for point in entry_points(group=ENTRY_POINT_GROUP)}
    return {**found, **_OWN}


def check_control(control: ControlNet, known: Collection[str], field: str) -> None:
    """
    Args:
        known: names of the pipeline's ControlNets.
        field: its name in errors.

    Raises:
        ContractError: an unknown ControlNet or preprocessor.
    """
    if control.name not in known:
        allowed = ", ".join(known) or "none: the pipeline was built without ControlNets"
        raise invalid(f"{field}.name", "unknown ControlNet", value=control.name, allowed=allowed)
    if control.preprocessor not in preprocessors():
        allowed = ", ".join(sorted(preprocessors()))
        raise invalid(
            f"{field}.preprocessor", "unknown", value=control.preprocessor, allowed=allowed
        )


class ControlReader:
    """Makes the hints of one request's SEGS; their chains must have passed :func:`check_control`.

    Args:
        tensor: the request's ``control_images``.
        size: (height, width) of the picture.
        crops: gets the hints.
    """

    def __init__(self, tensor: ByteArray | None, size: tuple[int, int], crops: Packer) -> None:
        self._tensor = tensor
        self._size = size
        self._crops = crops
        self._pictures: dict[Buffer, ByteArray] = {}

    def plan(
        self,
        chain: Sequence[ControlNet],
        crop_region: Box,
        crop: ByteArray,
        place: Piece,
        field: str,
    ) -> tuple[PlannedControl, ...]:
        """The chain with its hints.

        Args:
            crop: the SEG's crop at its sampled size, at ``place``.
            field: the chain's name in errors.

        Raises:
            ContractError: a broken control image.
        """
        return tuple(
            PlannedControl(
                name=control.name,
                strength=control.strength,
                start_percent=control.start_percent,
                end_percent=control.end_percent,
                hint=self._hint(control, crop_region, crop, place, f"{field}.{index}"),
            )
            for index, control in enumerate(chain)
        )

    def _hint(
        self, control: ControlNet, crop_region: Box, crop: ByteArray, place: Piece, field: str
    ) -> Piece:
        if control.image is None and control.preprocessor == "none":
            return place
        if control.image is not None:
            x1, y1, x2, y2 = crop_region
            crop = self._picture(control.image, f"{field}.image")[y1:y2, x1:x2]
        return self._crops.add(preprocessors()[control.preprocessor](np.ascontiguousarray(crop)))

    def _picture(self, place: Buffer, field: str) -> ByteArray:
        if place not in self._pictures:
            pixels = to_pixels(read_buffer(self._tensor, place, field))
            self._pictures[place] = resize_lanczos(pixels, *self._size)
        return self._pictures[place]
