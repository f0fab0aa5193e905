"""A drawn scene whose faces are spoilt, and the SEGS that ask for their repair."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from examples.demo_checkpoint.degrade import Degradation, degrade
from examples.demo_checkpoint.pictures import Drawing, Mask, draw_scene
from segs_client import Segs
from segs_client.arrays import ByteArray

LABEL = "face"
_MARGIN_SHARE = 0.06
"""Of a head's height, how far around it a SEG's mask reaches and the picture is spoilt."""
_SPOILT_FEATHER_PX = 3.0
_CROP_FACTOR = 1.7


@dataclass(frozen=True)
class SpoiltScene:
    """A scene as it was drawn and as it is sent.

    ``segs`` has one SEG per person, in the order of ``drawing.figures``: the box around the head,
    a mask of the head and a little around it. ``prompts`` say what each person looks like.
    """

    drawing: Drawing
    pixels: ByteArray
    segs: Segs

    @property
    def prompts(self) -> tuple[str, ...]:
        """One per SEG."""
        return tuple(figure.person.prompt() for figure in self.drawing.figures)


def spoilt_scene(
    seed: int,
    width: int = 640,
    height: int = 448,
    how: Degradation = Degradation(),  # noqa: B008
) -> SpoiltScene:
    """The scene of that seed, every head spoilt, all else as it was drawn."""
    drawing = draw_scene(seed, width, height)
    heads = [
        _grown(masks.head, _MARGIN_SHARE * figure.height_px)
        for figure, masks in zip(drawing.figures, drawing.masks, strict=True)
    ]
    everywhere = np.maximum.reduce(heads)
    weight = cv2.GaussianBlur(everywhere, (0, 0), _SPOILT_FEATHER_PX)[:, :, None]
    weight = np.where(everywhere[:, :, None] > 0, weight, 0)
    spoilt = drawing.pixels * (1 - weight) + degrade(drawing.pixels, how) * weight
    return SpoiltScene(
        drawing=drawing,
        pixels=np.round(spoilt).astype(np.uint8),
        segs=Segs.from_masks(
            heads, combined=True, crop_factor=_CROP_FACTOR, labels=[LABEL] * len(heads)
        ),
    )


def _grown(mask: Mask, px: float) -> Mask:
    side = 2 * max(1, round(px)) + 1
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.dilate(mask, element), dtype=np.float32)
