"""The first step: a request and its bytes become a plan and arrays of known shape."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipelines import PipelineDescriptor
from pipelines.descriptor import EMBEDDING
from preprocessing import limits
from preprocessing.images import Pixels, decode_input
from preprocessing.plan import Plan, PlannedPrompt
from preprocessing.seg_reader import SegReader
from segs_client.contract import invalid, parse_request


@dataclass(frozen=True)
class Inputs:
    """The request's tensors: its JSON, and flat uint8 arrays or None."""

    request: bytes
    image: Pixels
    masks: Pixels | None = None
    seg_images: Pixels | None = None
    control_images: Pixels | None = None


@dataclass(frozen=True)
class Prepared:
    """The plan and the flat uint8 tensors it points into."""

    plan: Plan
    canvas: Pixels
    """The picture's pixels, ``[H·W·3]``."""
    crops: Pixels
    """Crops at the size they are sampled at, and ControlNets' hints."""
    masks: Pixels
    """Masks of the crop regions and of prompts, float32."""
    given: Pixels
    """The SEGS' own crops, float32."""


def prepare(
    inputs: Inputs,
    *,
    pipelines: Mapping[str, PipelineDescriptor],
    request_id: str = "",
    deadline_s: float | None = None,
) -> Prepared:
    """Validates a request and brings every crop to its sampled size.

    Args:
        pipelines: those that may be asked for, by name.
        deadline_s: ``time.time()`` at which the answer is worthless.

    Raises:
        ContractError: whatever is wrong with the input, naming the field.
    """
    start_s = time.perf_counter()
    request = parse_request(inputs.request)
    pipeline = _named(request.pipeline, pipelines, "pipeline")
    refiner = None
    if request.refiner is not None:
        refiner = _named(request.refiner.pipeline, pipelines, "refiner.pipeline")
        _check_refiner(pipeline, refiner)
    items = request.segs.items
    if len(items) > limits.MAX_SEGS:
        raise invalid(
            "segs.items", "too many", value=len(items), allowed=f"up to {limits.MAX_SEGS}"
        )
    pixels = decode_input(inputs.image, request.image)
    reader = SegReader(
        request,
        pixels,
        pipeline.controlnets,
        masks=inputs.masks,
        images=inputs.seg_images,
        controls=inputs.control_images,
    )
    plan = Plan(
        request=request,
        request_id=request_id,
        deadline_s=deadline_s,
        image_size=(pixels.shape[0], pixels.shape[1]),
        segs=tuple(reader.read(index, item) for index, item in enumerate(items)),
        prepare_s=time.perf_counter() - start_s,
    )
    for seg in plan.segs:
        _check_embeddings((*seg.positives, *seg.negatives), pipeline)
        if refiner is not None:
            _check_embeddings((*seg.refiner_positives, *seg.refiner_negatives), refiner)
    return Prepared(
        plan,
        pixels.reshape(-1),
        reader.crops.tensor(),
        reader.masks.tensor(),
        reader.given.tensor(),
    )


def _named(
    name: str, pipelines: Mapping[str, PipelineDescriptor], field: str
) -> PipelineDescriptor:
    if name not in pipelines:
        raise invalid(field, "unknown", value=name, allowed=", ".join(sorted(pipelines)))
    return pipelines[name]


def _check_refiner(base: PipelineDescriptor, refiner: PipelineDescriptor) -> None:
    """A refiner takes over the base's latent, so they must share its form."""
    form = base.latent_channels, base.latent_scale
    if form != (refiner.latent_channels, refiner.latent_scale):
        allowed = f"a pipeline with {form[0]} latent channels scaled by {form[1]}"
        raise invalid("refiner.pipeline", "another latent", value=refiner.name, allowed=allowed)


def _check_embeddings(prompts: Iterable[PlannedPrompt], pipeline: PipelineDescriptor) -> None:
    known = {name for encoder in pipeline.text_encoders for name in encoder.embeddings}
    for prompt in prompts:
        for name in EMBEDDING.findall(prompt.text):
            if name not in known:
                allowed = ", ".join(sorted(known)) or f"none: {pipeline.name} was built without"
                raise invalid("prompt", "unknown embedding", value=name, allowed=allowed)
