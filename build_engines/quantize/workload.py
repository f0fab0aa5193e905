"""The requests of a UNet's calibration, and those of its evaluation."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from build_engines.errors import BuildError
from segs_client.arrays import ByteArray
from segs_client.boxes import Box

CALIBRATING = 8
JUDGING = 4
PROMPTS_FILE = "prompts.txt"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
_NEGATIVE = "blurry, low quality"
_PROMPTS = (
    "a smiling face, detailed skin",
    "an old man with a beard, studio light",
    "a hand holding a cup",
    "a red sports car on a wet street",
    "a cat sleeping on a sofa",
    "a bowl of fruit, oil painting",
    "a castle on a hill at dawn",
    "a portrait of a woman, black and white photograph",
    "a child laughing in the rain",
    "a wooden chair beside a window",
    "a dog running on a beach",
    "a city at night seen from above",
)
_SEED = 20_000
"""Seed of the first evaluation request; those of calibration start at 0."""

# Used in rotation; their lengths have no common factor, so that all pairs occur: the whole range
# of noise levels, and latents of many shapes.
_DENOISE = (1.0, 0.5, 0.75, 0.35)
_ASPECTS = (1.0, 0.75, 4 / 3, 0.5, 1.6)
_CROP_FACTORS = (1.5, 3.0, 2.0)
_SAMPLERS = (("euler", "normal"), ("dpmpp_2m", "karras"), ("euler_ancestral", "normal"))


@dataclass(frozen=True)
class CalibrationRequest:
    """One box of one picture ``[H, W, 3]`` to be redrawn, with its options."""

    name: str
    picture: ByteArray = field(repr=False, compare=False)
    box: Box
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Workload:
    """The pictures, prompts and sampled sizes of the requests.

    ``controlnets``: their names; a third of the requests uses one, in rotation.
    """

    pictures: Sequence[tuple[str, ByteArray]]
    prompts: Sequence[str]
    side: int
    steps: int
    controlnets: Sequence[str] = ()

    def calibrating(self) -> list[CalibrationRequest]:
        """The requests whose inputs are recorded."""
        pictures, _ = _split(self.pictures)
        prompts, _ = _split(self.prompts)
        return [self._request(i, i, pictures, prompts) for i in range(CALIBRATING)]

    def judging(self) -> list[CalibrationRequest]:
        """The evaluation requests: other seeds and boxes, and other pictures and prompts if there
        are several."""
        _, pictures = _split(self.pictures)
        _, prompts = _split(self.prompts)
        return [self._request(i, _SEED + i, pictures, prompts) for i in range(JUDGING)]

    def digest(self) -> str:
        """SHA-256 of the requests' pictures, prompts and options."""
        digest = hashlib.sha256(repr((self.prompts, self.side, self.steps)).encode())
        digest.update(repr(tuple(self.controlnets)).encode())
        for name, picture in self.pictures:
            digest.update(f"{name} {picture.shape}".encode())
            digest.update(np.ascontiguousarray(picture).data)
        return digest.hexdigest()

    def _request(
        self,
        index: int,
        seed: int,
        pictures: Sequence[tuple[str, ByteArray]],
        prompts: Sequence[str],
    ) -> CalibrationRequest:
        name, picture = pictures[index % len(pictures)]
        sampler, scheduler = _SAMPLERS[index % len(_SAMPLERS)]
        options: dict[str, Any] = {
            "prompt": prompts[index % len(prompts)],
            "negative": _NEGATIVE,
            "seed": seed,
            "steps": self.steps,
            "cfg": 7.0,
            "denoise": _DENOISE[index % len(_DENOISE)],
            "crop_factor": _CROP_FACTORS[index % len(_CROP_FACTORS)],
            "guide_size": self.side * 3 // 4,
            "max_size": self.side,
            "sampler_name": sampler,
            "scheduler": scheduler,
            "force_inpaint": True,
            "output": {"image": "raw"},
        }
        if self.controlnets and index % 3 == 2:
            control = self.controlnets[index // 3 % len(self.controlnets)]
            options["controlnets"] = [{"name": control, "preprocessor": "canny"}]
        return CalibrationRequest(
            name, picture, _box(picture, seed, _ASPECTS[index % len(_ASPECTS)]), options
        )


def read_pictures(folder: Path) -> list[tuple[str, ByteArray]]:
    """The folder's pictures by name, RGB; without pictures, a drawn scene.

    Raises:
        BuildError: a picture cannot be read; or there is neither a picture nor a scene.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        return [("scene", _scene(folder))]
    try:
        return [(path.name, np.asarray(Image.open(path).convert("RGB"))) for path in paths]
    except (OSError, UnidentifiedImageError) as error:
        raise BuildError(f"calibration: a picture in {folder} cannot be read: {error}") from error


def read_prompts(folder: Path) -> list[str]:
    """The lines of the folder's ``prompts.txt``; without the file, default prompts.

    Raises:
        BuildError: the file has no prompt.
    """
    path = folder / PROMPTS_FILE
    if not path.exists():
        return list(_PROMPTS)
    prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    if not any(prompts):
        raise BuildError(f"calibration: no prompt in {path}; one a line is expected")
    return [prompt for prompt in prompts if prompt]


def _scene(folder: Path) -> ByteArray:
    try:
        # The project's examples may not be installed.
        image, _ = importlib.import_module("examples.scene").draw()
    except ModuleNotFoundError as error:
        raise BuildError(f"calibration: no picture in {folder}; png, jpg or webp go") from error
    return np.asarray(image)


def _split(items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """The first three quarters, and the rest; a single item is in both."""
    first = max(1, len(items) * 3 // 4)
    return items[:first], items[first:] or items


def _box(picture: ByteArray, seed: int, aspect: float) -> Box:
    """A seeded box of a sixth to a third of the picture's shorter side."""
    random = np.random.default_rng(seed)
    height, width = picture.shape[:2]
    size = min(height, width) * random.uniform(1 / 6, 1 / 3)
    across, down = max(8, int(size * aspect**0.5)), max(8, int(size / aspect**0.5))
    left = int(random.integers(max(1, width - across)))
    top = int(random.integers(max(1, height - down)))
    return left, top, min(width, left + across), min(height, top + down)
