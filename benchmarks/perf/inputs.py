"""perf_analyzer's input file: requests as the client builds them, as JSON.

Each entry of ``data`` is one request with every input of the model: ``request`` as base64 of the
4-byte little-endian length and the JSON, the others as base64 of their bytes, each with its shape.
An input that a request does not have is given with no elements, ``{"content": [], "shape": [0]}``;
base64 of nothing crashes perf_analyzer 2.48.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient.utils import serialize_byte_tensor

from examples import scene
from segs_client import Segs
from segs_client.arrays import ByteArray
from segs_client.contract import DetailRequest
from segs_client.messages import BuiltRequest, build
from segs_client.pictures import Picture

Entry = dict[str, dict[str, Any]]

SMALL_OPTIONS: Mapping[str, Any] = {
    "crop_factor": 1.2,
    "guide_size": 64,
    "max_size": 128,
    "steps": 6,
}
"""What suits the tiny pipeline on a few cores."""

_SCENE_REQUESTS: tuple[tuple[tuple[int, ...], str], ...] = (
    ((0,), "a smiling face"),
    ((1, 2), "two faces in soft light"),
    ((3,), "a (freckled:1.2) face"),
    ((0, 1, 3), "faces of a group, detailed skin"),
    ((2,), "a face with blue eyes"),
    ((1, 3), "an old face, candle light"),
    ((0, 2), "a laughing face"),
)
"""Faces of the scene and their prompt. There are 7: each thread of perf_analyzer takes every n-th
request, n the number of threads, so all threads send all of them unless 7 divides n."""
_WITH_MASKS = 6


def entry(built: BuiltRequest) -> Entry:
    """One request as perf_analyzer reads it.

    Example:
        >>> picture = np.zeros((64, 64, 3), np.uint8)
        >>> made = entry(build(picture, [(8, 8, 40, 40)], pipeline="base"))
        >>> made["request"]["shape"], made["masks"]
        ([1], {'content': [], 'shape': [0]})
    """
    text = built.request.model_dump_json().encode()
    framed = serialize_byte_tensor(np.array([text], np.object_)).item()
    return {
        "request": {"b64": _b64(framed), "shape": [1]},
        "image": _flat(built.image),
        "masks": _flat(built.masks),
        "seg_images": _flat(built.seg_images),
        "control_images": _flat(built.control_images),
    }


def document(requests: Iterable[BuiltRequest]) -> dict[str, list[Entry]]:
    """The whole input file."""
    return {"data": [entry(built) for built in requests]}


def scene_requests(pipeline: str, options: Mapping[str, Any]) -> list[BuiltRequest]:
    """Seven requests on the drawn scene: one to three boxes, one of them with masks; each with its
    own prompt and seed unless ``options`` say otherwise."""
    picture, masks = scene.draw()
    crop_factor = options.get("crop_factor", DetailRequest.model_fields["crop_factor"].default)
    requests = []
    for index, (chosen, prompt) in enumerate(_SCENE_REQUESTS):
        segs: Segs | list[tuple[int, ...]]
        if index == _WITH_MASKS:
            segs = Segs.from_masks([masks[face] for face in chosen], crop_factor=crop_factor)
        else:
            segs = [tuple(round(edge) for edge in scene.FACES[face].oval) for face in chosen]
        own = {"prompt": prompt, "seed": index, **options}
        requests.append(build(picture, segs, pipeline=pipeline, **own))
    return requests


def picture_requests(
    pictures: Iterable[tuple[Picture, Sequence[Sequence[int]]]],
    pipeline: str,
    options: Mapping[str, Any],
) -> list[BuiltRequest]:
    """One request per picture and its boxes (x1, y1, x2, y2; half-open pixels), seeds 0, 1, ….

    Raises:
        InvalidRequest: a box or an option that the contract does not allow.
        OSError: a picture cannot be read.
    """
    return [
        build(picture, boxes, pipeline=pipeline, **{"seed": index, **options})
        for index, (picture, boxes) in enumerate(pictures)
    ]


def _flat(tensor: ByteArray | None) -> dict[str, Any]:
    if tensor is None or tensor.size == 0:
        return {"content": [], "shape": [0]}
    return {"b64": _b64(tensor.tobytes()), "shape": [tensor.size]}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
