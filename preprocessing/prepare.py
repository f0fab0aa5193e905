"""The first step: check a request, decode it, and make its plan and arrays."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipelines import PipelineDescriptor
from preprocessing.images import Picture, open_picture
from preprocessing.prompts import PromptBook
from preprocessing.seg_reader import SegReader
from preprocessing.survey import Survey, SurveyedSeg
from request_plan.limits import DEFAULT, Limits
from request_plan.packing import Packer
from request_plan.plan import Bytes, Plan
from segs_client.arrays import ByteArray
from segs_client.contract import DetailRequest, invalid, parse_request


@dataclass(frozen=True)
class RequestTensors:
    """The request's tensors: its JSON, and flat uint8 arrays or None."""

    request: bytes
    image: ByteArray
    masks: ByteArray | None = None
    seg_images: ByteArray | None = None
    control_images: ByteArray | None = None


@dataclass(frozen=True)
class Prepared:
    """The plan and the flat uint8 tensors that it refers to."""

    plan: Plan
    canvas: ByteArray
    """The picture's pixels, ``[H·W·3]``."""
    crops: ByteArray
    """Crops at their sampled size, and ControlNets' hints."""
    masks: ByteArray
    """Masks of the crop regions and of prompts, float32."""
    given: ByteArray
    """The SEGS' own crops, float32, and the picture's ICC profile."""


@dataclass(frozen=True)
class Checked:
    """A request whose JSON and file headers are checked; nothing is decoded yet."""

    request: DetailRequest
    request_id: str
    deadline_s: float | None
    picture: Picture
    inputs: RequestTensors
    book: PromptBook
    survey: Survey
    segs: tuple[SurveyedSeg, ...]
    check_s: float

    @property
    def picture_bytes(self) -> int:
        """Bytes of the picture, control images, masks and given crops, decoded to uint8."""
        return self.survey.picture_bytes

    def decode(self) -> Prepared:
        """Decodes the pictures and resizes every crop to its sampled size.

        Raises:
            ContractError: a file is truncated or broken, or values are wrong.
        """
        start_s = time.perf_counter()
        request = self.request
        pixels, profile = self.picture.read(request.output.color)
        reader = SegReader(request, pixels, self.book, **_arrays(self.inputs))
        pairs = enumerate(zip(request.segs.items, self.segs, strict=True))
        plan = Plan(
            request=request,
            request_id=self.request_id,
            deadline_s=self.deadline_s,
            image_size=self.picture.size,
            segs=tuple(reader.read(index, *pair) for index, pair in pairs),
            profile=None if profile is None else _added(reader.given, profile),
            prepare_s=self.check_s + time.perf_counter() - start_s,
            memory_bytes=self.survey.memory_bytes,
        )
        return Prepared(
            plan,
            pixels.reshape(-1),
            reader.crops.tensor(),
            reader.masks.tensor(),
            reader.given.tensor(),
        )


def check(
    inputs: RequestTensors,
    *,
    pipelines: Mapping[str, PipelineDescriptor],
    limits: Limits = DEFAULT,
    request_id: str = "",
    deadline_s: float | None = None,
) -> Checked:
    """Validates a request by its JSON and its file headers.

    Args:
        pipelines: the server's, by name.
        deadline_s: ``time.time()`` of the request's deadline.

    Raises:
        ContractError: names the wrong field.
    """
    start_s = time.perf_counter()
    _check_tensors(inputs, limits)
    request = parse_request(inputs.request, limits.json)
    pipeline = _named(request.pipeline, pipelines, "pipeline")
    refiner = None
    if request.refiner is not None:
        refiner = _named(request.refiner.pipeline, pipelines, "refiner.pipeline")
        _check_refiner(pipeline, refiner)
    picture = open_picture(inputs.image, request.image, limits)
    survey = Survey(
        request, picture.size, tuple(pipeline.controlnets), limits,
        profile_bytes=picture.profile_bytes, **_arrays(inputs),
    )  # fmt: skip
    surveyed = survey.segs()
    book = PromptBook(request, limits)
    book.check(pipeline, refiner)
    return Checked(
        request,
        request_id,
        deadline_s,
        picture,
        inputs,
        book,
        survey,
        surveyed,
        time.perf_counter() - start_s,
    )


def prepare(
    inputs: RequestTensors, *, pipelines: Mapping[str, PipelineDescriptor], limits: Limits = DEFAULT
) -> Prepared:
    """:func:`check`, then :meth:`Checked.decode`."""
    return check(inputs, pipelines=pipelines, limits=limits).decode()


def _added(packer: Packer, data: bytes) -> Bytes:
    return Bytes(offset=packer.add_bytes(np.frombuffer(data, np.uint8)), length=len(data))


def _arrays(inputs: RequestTensors) -> dict[str, ByteArray | None]:
    return {
        "masks": inputs.masks,
        "images": inputs.seg_images,
        "controls": inputs.control_images,
    }


def _check_tensors(inputs: RequestTensors, limits: Limits) -> None:
    for name in ("image", "masks", "seg_images", "control_images"):
        tensor = getattr(inputs, name)
        if tensor is not None and tensor.size > limits.max_tensor_bytes:
            allowed = f"up to {limits.max_tensor_bytes} bytes"
            raise invalid(name, "too long", value=f"{tensor.size} bytes", allowed=allowed)


def _named(
    name: str, pipelines: Mapping[str, PipelineDescriptor], field: str
) -> PipelineDescriptor:
    if name not in pipelines:
        raise invalid(field, "unknown", value=name, allowed=", ".join(sorted(pipelines)))
    return pipelines[name]


def _check_refiner(base: PipelineDescriptor, refiner: PipelineDescriptor) -> None:
    """A refiner continues from the base's latent, so their latents must have the same form."""
    form = base.latent_channels, base.latent_scale
    if form != (refiner.latent_channels, refiner.latent_scale):
        allowed = f"a pipeline with {form[0]} latent channels scaled by {form[1]}"
        raise invalid("refiner.pipeline", "another latent", value=refiner.name, allowed=allowed)
