"""What reads strangers' bytes, each behind one function of bytes that must not raise.

Property tests and the coverage-guided fuzzer call the same functions; so does the replay of seeds.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping

import numpy as np

from pipelines.descriptor import ControlNetSpec, Network, PipelineDescriptor
from preprocessing.images import open_picture
from preprocessing.prepare import RequestTensors, prepare
from request_plan.limits import DEFAULT
from segs_client.contract import ContractError, ErrorDetail, ImageInput, parse_request
from segs_client.wildcards import resolve
from tests.descriptors import bare_pipeline
from tests.fuzz import documents, pictures

_STATUS_BYTES = 8192
"""gRPC refuses metadata above."""


_NETWORK = Network(model="n", max_batch=1, inputs={}, outputs={}, files={})
PIPELINES: Mapping[str, PipelineDescriptor] = {
    "sd15": bare_pipeline(
        name="sd15",
        context_dim=32,
        controlnets={"controlnet": ControlNetSpec(network=_NETWORK, unet="u")},
    )
}
"""What preparing a request has to know of a pipeline."""


def read_request(data: bytes) -> bool:
    """Parses the JSON of a request; returns whether it is one."""
    return _refused_well(lambda: parse_request(data))


def read_picture(data: bytes) -> bool:
    """Decodes a picture's file, with its colours kept and converted."""
    flat = np.frombuffer(data, np.uint8)

    def read() -> None:
        opened = open_picture(flat, ImageInput(), DEFAULT)
        for color in ("keep", "srgb"):
            pixels, profile = opened.read(color)
            if pixels.shape != (*opened.size, 3) or (profile and color == "srgb"):
                raise AssertionError(f"{pixels.shape}, not {opened.size}, or a profile")

    return _refused_well(read)


def read_prompt(data: bytes) -> bool:
    """Resolves the wildcards of a prompt."""
    text = data.decode(errors="replace")
    return _refused_well(lambda: resolve(text, 7, {"a": ("b", "{c|__a__}"), text[:9]: (text,)}))


def read_inputs(data: bytes) -> bool:
    """Prepares a whole request: its JSON and its tensors, as :func:`packed` joins them."""
    parts = _unpacked(data)
    if not documents.is_cheap(parts[0]):
        return False
    tensors = [np.frombuffer(part, np.uint8) if part else None for part in parts[2:]]
    inputs = RequestTensors(parts[0], np.frombuffer(parts[1], np.uint8), *tensors)
    return _refused_well(lambda: prepare(inputs, pipelines=PIPELINES))


HARNESSES: Mapping[str, Callable[[bytes], bool]] = {
    "request": read_request,
    "picture": read_picture,
    "prompt": read_prompt,
    "inputs": read_inputs,
}


def packed(request: bytes, image: bytes, masks: bytes, seg_images: bytes, controls: bytes) -> bytes:
    """A request and its tensors as one, two bytes of length before each; longer ones are cut."""
    parts = [part[:65_535] for part in (request, image, masks, seg_images, controls)]
    return b"".join(struct.pack("<H", len(part)) + part for part in parts)


def _unpacked(data: bytes) -> list[bytes]:
    parts = []
    for _ in range(5):
        length = int.from_bytes(data[:2], "little")
        parts.append(data[2 : 2 + length])
        data = data[2 + length :]
    return parts


def corpus(harness: str) -> list[bytes]:
    """Some inputs to begin with, valid ones among them."""
    rng = random.Random(1)
    if harness == "picture":
        return list(pictures.files())
    found = []
    for _ in range(40):
        document = documents.valid(rng, "sd15")
        if harness == "prompt":
            found.append(str(document["prompt"]).encode())
        elif harness == "request":
            found.append(documents.dumps(document))
        else:
            buffers = pictures.with_buffers(rng, document)
            text = documents.dumps(document)
            found.append(packed(text, pictures.raw_pixels(), *buffers.values()))
    return found


def _refused_well(read: Callable[[], object]) -> bool:
    """Whether it was read; a refusal must be one that a client can use."""
    try:
        read()
    except ContractError as error:
        told = error.detail.model_copy(update={"request_id": "r"}).to_status_message()
        if ErrorDetail.from_status_message(told) is None or not error.detail.field:
            raise AssertionError(f"a refusal that tells nothing: {told!r}") from error
        if len(told.encode()) > _STATUS_BYTES or not told.splitlines()[0].isprintable():
            raise AssertionError(f"a refusal that does not travel: {told!r}") from error
        return False
    return True
