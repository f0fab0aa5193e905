"""The requests of the load benchmarks: of one kind alike in cost, and no two alike in content."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples import scene
from preprocessing.prepare import RequestTensors
from segs_client.boxes import Box
from segs_client.messages import build

_PICTURE_PX = 512
_LEAST_SIDE_PX = 48
_GUIDED = 8.0
_WORDS = ("smiling", "old", "young", "sad", "bright", "painted", "freckled", "serious")


@dataclass(frozen=True)
class Kind:
    """Requests that cost the same.

    ``size`` is that of a SEG as it is sampled, in pixels, square; ``guided`` SEGs have two rows in
    a batch of the UNet, others one.
    """

    size: int = 256
    steps: int = 20
    segs: int = 1
    guided: bool = True
    sampler_name: str = "euler"

    @property
    def name(self) -> str:
        guidance = "" if self.guided else ", cfg 1"
        return f"{self.segs} × {self.size}², {self.steps} steps{guidance}"

    @property
    def rows(self) -> int:
        """Of one SEG in a batch of the UNet."""
        return 2 if self.guided else 1

    @property
    def cells(self) -> int:
        """Of its latent."""
        return (self.size // 8) ** 2


@dataclass(frozen=True)
class Request:
    """The arguments of :meth:`segs_client.Client.detail`."""

    kind: Kind
    boxes: tuple[Box, ...]
    options: dict[str, Any]

    def inputs(self, pipeline: str) -> RequestTensors:
        """As preparation gets it."""
        built = build(picture(), self.boxes, pipeline=pipeline, **self.options)
        text = built.request.model_dump_json().encode()
        return RequestTensors(text, built.image, built.masks, built.seg_images)


@cache
def picture() -> NDArray[np.uint8]:
    """What all requests redraw ``[512, 512, 3]``."""
    return np.asarray(scene.draw(_PICTURE_PX, _PICTURE_PX)[0])


def request(kind: Kind, index: int) -> Request:
    """The ``index``-th request of a kind: boxes, prompt and seed are its own."""
    random = np.random.default_rng([index, kind.size, kind.steps, kind.segs])
    sides = random.choice(_sides(kind.size), kind.segs)
    corners = (random.integers(0, _PICTURE_PX - side, 2) for side in sides)
    boxes = tuple(
        (int(x), int(y), int(x + side), int(y + side))
        for (x, y), side in zip(corners, sides, strict=True)
    )
    options = {
        "prompt": f"a {_WORDS[index % len(_WORDS)]} face, {index}",
        "negative": "blurred",
        "seed": index,
        "crop_factor": 1.0,
        "guide_size": kind.size,
        "max_size": kind.size,
        "steps": kind.steps,
        "sampler_name": kind.sampler_name,
        "cfg": _GUIDED if kind.guided else 1.0,
    }
    return Request(kind, boxes, options)


@cache
def _sides(size: int) -> list[int]:
    """Sides of square boxes that are enlarged to exactly ``size`` (scaling truncates)."""
    sides = range(_LEAST_SIDE_PX, min(size, _PICTURE_PX))
    return [side for side in sides if int(side * (size / side)) == size]
