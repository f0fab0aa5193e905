"""The demo's checkpoint, built and served; what demo, gallery and quality tables ask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from build_engines import build
from examples.demo_checkpoint.export import CONTROLNET, inpaint_checkpoint
from examples.spoilt_scene import SpoiltScene
from segs_client import Client, Segs
from segs_client.arrays import ByteArray
from serving.server import EmbeddedServer

PROJECT = Path(__file__).resolve().parent.parent
CHECKPOINT = PROJECT / "examples" / "demo_checkpoint" / "weights"
REPOSITORY = PROJECT / "build" / "demo"
PIPELINE = "demo"
INPAINT_PIPELINE = "demo_inpaint"

REPAIR: Mapping[str, Any] = {
    "guide_size": 96,
    "max_size": 256,
    "steps": 4,
    "cfg": 2.0,
    "denoise": 0.35,
    "sampler_name": "dpmpp_2m",
    "scheduler": "karras",
    "seed": 7,
}
"""Options that bring back what a spoilt face was."""
CHANGE: Mapping[str, Any] = {**REPAIR, "steps": 8, "cfg": 5.0, "denoise": 0.45}
"""Options for prompts that ask for other colours than are there; the face stays where it is."""
REDRAW: Mapping[str, Any] = {**CHANGE, "denoise": 0.75}
"""Options for faces that are drawn anew."""
FROM_NOTHING: Mapping[str, Any] = {**REDRAW, "denoise": 1.0}
"""Options for faces of which nothing is kept."""
INPAINT: Mapping[str, Any] = {"pipeline": INPAINT_PIPELINE, "inpaint_model": True}
"""Beside others: options for the network that is shown what lies around the mask."""

Redraw = Callable[[SpoiltScene, Segs, Mapping[str, Any]], ByteArray]
"""Of a scene with these SEGS and options, the picture ``[H, W, 3]`` that comes back."""


def build_demo(checkpoint: Path = CHECKPOINT, repository: Path = REPOSITORY) -> None:
    """Builds the pipeline with its ControlNet, where it is not built yet.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    build(checkpoint, PIPELINE, repository, controlnets={CONTROLNET: checkpoint / CONTROLNET})


def build_inpaint(checkpoint: Path = CHECKPOINT, repository: Path = REPOSITORY) -> None:
    """Builds the pipeline of the checkpoint's inpainting UNet, where it is not built yet.

    Raises:
        FileNotFoundError: the checkpoint has none.
    """
    with TemporaryDirectory() as folder:
        inpaint_checkpoint(checkpoint, Path(folder) / "checkpoint")
        build(Path(folder) / "checkpoint", INPAINT_PIPELINE, repository)


@contextmanager
def serve_demo(repository: Path = REPOSITORY) -> Iterator[Client]:
    """A client of a real server with the pipeline that is built there."""
    with (
        EmbeddedServer([repository]) as server,
        Client(server.grpc_url, pipeline=PIPELINE) as client,
    ):
        yield client


def through(client: Client) -> Redraw:
    """Redraws by requests to a server."""

    def redraw(scene: SpoiltScene, segs: Segs, options: Mapping[str, Any]) -> ByteArray:
        result = client.detail(scene.pixels, segs, **options)
        assert result.image is not None  # nothing else is asked for
        return np.asarray(result.image)

    return redraw


def prompted(segs: Segs, prompts: Sequence[str]) -> Segs:
    """The SEGS, each with its own prompt."""
    items = zip(segs, prompts, strict=True)
    return replace(
        segs, items=tuple(replace(seg, options={"prompt": prompt}) for seg, prompt in items)
    )


def controlled(scene: SpoiltScene, strength: float = 1.0) -> dict[str, Any]:
    """The option that shows the ControlNet the drawing's edges."""
    edges = {
        "name": CONTROLNET,
        "image": Image.fromarray(scene.drawing.pixels),
        "preprocessor": "canny",
        "strength": strength,
    }
    return {"controlnets": [edges] if strength else []}
