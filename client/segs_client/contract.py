"""The wire contract, version 1: the JSON of requests and reports.

Client and server both validate with these models; the published JSON Schema is generated from
them. Boxes are half-open pixels (x1, y1, x2, y2), crop regions whole ones; sizes are (height,
width).

Tensors of the ensemble ``segs_detailer``:

==================  =========  ==========================================================
input               type       content
==================  =========  ==========================================================
``request``         BYTES [1]  JSON of :class:`DetailRequest`
``image``           UINT8 [n]  the picture: a PNG, JPEG or WebP file, or raw pixels
``masks``           UINT8 [n]  optional: the masks' bytes, one after another
``seg_images``      UINT8 [n]  optional: the SEGS' own crops, one after another
``control_images``  UINT8 [n]  optional: ControlNets' pictures, one after another
output
``report``          UINT8 [n]  JSON of :class:`Report`
``detailed_image``  UINT8 [n]  the pasted result in the requested format
``detailed_segs``   UINT8 [n]  the detailed crops, if requested
``used_control_images``  UINT8 [n]  the used control images, if requested
==================  =========  ==========================================================

(An ensemble has one name space for all its tensors: an output cannot have an input's name.)

An empty output has length 0.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from segs_client import refusals
from segs_client.features import (
    ControlNet,
    Prompt,
    Refiner,
    SamplerName,
    SchedulerFunc,
    SchedulerName,
    Seed,
    SegOptions,
    SegPrompts,
    StreamOptions,
    Wildcards,
    check_axes,
)
from segs_client.json_text import JsonLimits, check_names, check_size
from segs_client.refusals import ContractError, ErrorCode, ErrorDetail, invalid, refuse
from segs_client.seeds import largest_seed
from segs_client.wire import Box, Buffer, FloatBox, Model, PipelineName, Side

__all__ = [
    "API_KEY_HEADER",
    "CONTRACT_VERSION",
    "MODEL_NAME",
    "STREAM_MODEL_NAME",
    "Box",
    "Buffer",
    "ContractError",
    "ControlNet",
    "DetailRequest",
    "ErrorCode",
    "ErrorDetail",
    "FloatBox",
    "ImageInput",
    "ImageReport",
    "Model",
    "OutputOptions",
    "PasteOptions",
    "PipelineName",
    "Prompt",
    "Refiner",
    "Report",
    "SamplerName",
    "SchedulerFunc",
    "SchedulerName",
    "SegError",
    "SegItem",
    "SegOptions",
    "SegPrompts",
    "SegReport",
    "SegStatus",
    "SegsInput",
    "StreamOptions",
    "from_validation_error",
    "invalid",
    "parse_request",
]

CONTRACT_VERSION = 1
MODEL_NAME = "segs_detailer"
STREAM_MODEL_NAME = "segs_detailer_stream"
API_KEY_HEADER = "x-api-key"  # gRPC metadata, or HTTP header, if the server requires keys
TRACE_HEADERS = ("traceparent", "tracestate")  # likewise, https://www.w3.org/TR/trace-context/

SegStatus = Literal[
    "enhanced",
    "skipped_empty_mask",
    "skipped_large_enough",
    "skipped_no_upscale",
    "skipped_too_small",
    "skipped_by_request",
    "unsampled_schedule_too_short",
    "failed",
]


class ImageInput(Model):
    """The form of the ``image`` tensor: an encoded file, or raw RGB uint8 ``[H, W, 3]``."""

    encoding: Annotated[
        Literal["file", "raw"], Field(description="an encoded file, or the pixels themselves")
    ] = "file"
    shape: Annotated[
        tuple[Side, Side, Literal[3]] | None, Field(description="[H, W, 3]; raw pixels only")
    ] = None

    @model_validator(mode="after")
    def _raw_has_shape(self) -> ImageInput:
        if self.encoding == "raw" and self.shape is None:
            raise refuse(
                "shape", "required with encoding 'raw'", value=None, allowed="[height, width, 3]"
            )
        if self.encoding == "file" and self.shape is not None:
            raise refuse("shape", "the file has its own", value=list(self.shape), allowed="null")
        return self


class SegItem(SegOptions):
    """One segment, with its own options if they differ from the request's.

    Without ``crop_region``, it is made around the box by the request's crop_factor. Without
    ``mask``, the mask is the filled box."""

    bbox: Annotated[
        FloatBox,
        Field(
            description="x1, y1, x2, y2 in pixels, half-open, fractions allowed; may reach out of "
            "the picture"
        ),
    ]
    crop_region: Annotated[
        Box | None, Field(description="the region to be redrawn, in pixels of segs.size")
    ] = None
    label: Annotated[str, Field(max_length=1024, description="copied to the report")] = ""
    confidence: Annotated[float, Field(description="copied to the report")] = 1.0
    mask: Annotated[
        Buffer | None, Field(description="cropped mask [h, w], 0..1, of the crop region's size")
    ] = None
    image: Annotated[
        Buffer | None, Field(description="own crop [h, w, 3] used instead of cutting the image")
    ] = None

    @model_validator(mode="after")
    def _boxes_have_area(self) -> SegItem:
        for name, box in (("bbox", self.bbox), ("crop_region", self.crop_region)):
            if box is None:
                continue
            sides = box[2] - box[0], box[3] - box[1]
            if min(sides) <= 0:
                allowed = "x1, y1, x2, y2 with x2 > x1 and y2 > y1"
                raise refuse(name, "has no area", value=list(box), allowed=allowed)
            if min(sides) < 1:
                allowed = "x1, y1, x2, y2 in pixels, with sides of 1 or more"
                raise refuse(name, "smaller than a pixel", value=list(box), allowed=allowed)
        if self.crop_region is None and (self.mask is not None or self.image is not None):
            raise refuse(
                "crop_region",
                "required where a mask or an image is given",
                value=None,
                allowed="x1, y1, x2, y2",
            )
        check_axes(self.mask, "mask", "[height, width]")
        check_axes(self.image, "image", "[height, width, 3]")
        return self


class SegsInput(Model):
    """The segments, and the (height, width) that their pixels refer to; null: the picture's. With
    another size they are scaled to the picture."""

    size: Annotated[
        tuple[Side, Side] | None, Field(description="height, width; null: the picture's own")
    ] = None
    items: Annotated[
        tuple[SegItem, ...],
        Field(max_length=4096, description="in order", fail_fast=True),
    ] = ()


class PasteOptions(Model):
    """SEGSPaste: options of pasting the detailed crops into the picture."""

    feather: Annotated[int, Field(ge=0, le=100, description="blur radius of the mask, px")] = 5
    alpha: Annotated[int, Field(ge=0, le=255, description="opacity")] = 255


class OutputOptions(Model):
    """The outputs of the response, and their encodings."""

    image: Annotated[
        Literal["png", "jpeg", "webp", "raw", "none"],
        Field(description="form of the pasted picture; raw is RGB uint8 [H, W, 3]"),
    ] = "png"
    quality: Annotated[int, Field(ge=1, le=100, description="of JPEG and WebP")] = 95
    color: Annotated[
        Literal["keep", "srgb"],
        Field(
            description="keep: the colours and the ICC profile that the picture came with; srgb: "
            "converted to sRGB by that profile, before it is redrawn"
        ),
    ] = "keep"
    seg_images: Annotated[
        Literal["none", "png", "uint8", "float32"], Field(description="the detailed crops")
    ] = "none"
    control_images: Annotated[bool, Field(description="also the used control images, as PNG")] = (
        False
    )


class DetailRequest(Model):
    """One call of the detailer. Names, defaults and ranges are those of SEGSDetailer."""

    version: Annotated[Literal[1], Field(description="of this contract")] = 1
    pipeline: Annotated[PipelineName, Field(description="the basic_pipe: a compiled checkpoint")]
    prompt: Annotated[str, Field(max_length=100_000, description="the positive prompt")] = ""
    negative: Annotated[str, Field(max_length=100_000, description="the negative prompt")] = ""
    prompts: Annotated[
        tuple[Prompt, ...],
        Field(
            max_length=16,
            description="further conditionings beside prompt; see Prompt",
            fail_fast=True,
        ),
    ] = ()
    negatives: Annotated[
        tuple[Prompt, ...],
        Field(
            max_length=16,
            description="further conditionings beside negative; see Prompt",
            fail_fast=True,
        ),
    ] = ()
    seg_prompts: Annotated[
        SegPrompts | None, Field(description="one prompt for each of the SEGS")
    ] = None
    wildcards: Wildcards = Field(
        default_factory=dict, description="name → lines, one of which replaces __name__ in a prompt"
    )
    image: Annotated[ImageInput, Field(description="form of the image tensor")] = ImageInput()
    segs: Annotated[SegsInput, Field(description="the segments to redraw")] = SegsInput()
    crop_factor: Annotated[
        float,
        Field(ge=1.0, le=100.0, description="crop region over box, for SEGS without a crop_region"),
    ] = 3.0
    crop_min_size: Annotated[Side | None, Field(description="least side of such a region, px")] = (
        None
    )

    guide_size: Annotated[
        float, Field(ge=64, le=16384, description="shorter side that a SEG is scaled up to, px")
    ] = 512
    guide_size_for: Annotated[
        bool, Field(description="true: the box is scaled to guide_size; false: the crop region")
    ] = True
    max_size: Annotated[
        float, Field(ge=64, le=16384, description="longest side of a sampled crop, px")
    ] = 768
    shapes: Annotated[
        Literal["exact", "throughput"],
        Field(
            description="exact: every SEG at its own size, as SEGSDetailer; throughput: slightly "
            "larger crop regions with a few common sizes, so that more SEGs share batches"
        ),
    ] = "exact"
    seed: Annotated[
        Seed,
        Field(
            description="of the noise; batch_pass n has seed + n + 1, its cycle k has k more; all "
            "below 2⁶⁴"
        ),
    ] = 0
    steps: Annotated[int, Field(ge=1, le=10_000, description="sampling steps per cycle")] = 20
    cfg: Annotated[float, Field(ge=0, le=100, description="classifier-free guidance scale")] = 8.0
    sampler_name: Annotated[SamplerName, Field(description="the sampler")] = "euler"
    scheduler: Annotated[SchedulerName, Field(description="the noise levels")] = "normal"
    denoise: Annotated[
        float, Field(ge=0.0001, le=1, description="fraction of the schedule that is run")
    ] = 0.5
    noise_mask: Annotated[
        bool, Field(description="redraw only inside the mask, not the whole crop")
    ] = True
    force_inpaint: Annotated[
        bool, Field(description="redraw also SEGS that are large enough already")
    ] = True
    batch_size: Annotated[int, Field(ge=1, le=100, description="passes over all SEGS")] = 1
    cycle: Annotated[int, Field(ge=1, le=10, description="samplings of each SEG in sequence")] = 1
    noise_mask_feather: Annotated[
        int,
        Field(ge=0, le=100, description="blur radius of the noise mask, px; 0 keeps it hard"),
    ] = 20

    refiner: Annotated[
        Refiner | None, Field(description="refiner_basic_pipe_opt: runs the last steps")
    ] = None
    refiner_ratio: Annotated[
        float, Field(ge=0, le=1, description="fraction of the steps that the refiner runs")
    ] = 0.2
    inpaint_model: Annotated[
        bool, Field(description="give a 9-channel network the surroundings of the mask")
    ] = False
    scheduler_func: Annotated[
        SchedulerFunc | None,
        Field(description="scheduler_func_opt: noise levels instead of scheduler's"),
    ] = None
    controlnets: Annotated[
        tuple[ControlNet, ...],
        Field(
            max_length=8,
            description="the chain of ControlNets of every SEG, first to last",
            fail_fast=True,
        ),
    ] = ()

    priority: Annotated[
        Literal["low", "normal", "high"],
        Field(description="under load, each higher level gets four times the device time"),
    ] = "normal"
    paste: Annotated[PasteOptions, Field(description="how crops are pasted")] = PasteOptions()
    output: Annotated[OutputOptions, Field(description="what is returned")] = OutputOptions()
    stream: Annotated[StreamOptions, Field(description="which events are sent")] = StreamOptions()

    @model_validator(mode="after")
    def _seeds_have_room(self) -> DetailRequest:
        most = largest_seed(
            batch_size=self.batch_size,
            cycle=self.cycle,
            sampler_name=self.sampler_name,
            noise_mask=self.noise_mask,
        )
        for index, item in enumerate(self.segs.items):
            field = "seed" if item.seed is None else f"segs.items.{index}.seed"
            seed = self.seed if item.seed is None else item.seed
            if seed > most and not item.skip:
                message = "too large, as its passes and cycles count on from it"
                raise refuse(field, message, value=seed, allowed=f"whole numbers 0 … {most}")
        return self


class SegError(Model):
    """The internal error of one SEG; it does not affect other SEGs."""

    code: ErrorCode
    message: Annotated[str, Field(description="one sentence for people")]
    incident: Annotated[str, Field(description="id of the error in the server's log")]


class SegReport(Model):
    """The result of one SEG in one pass."""

    index: Annotated[int, Field(ge=0, description="position among the request's segs")]
    batch_pass: Annotated[int, Field(ge=0, description="0 … batch_size−1")] = 0
    status: SegStatus
    error: Annotated[
        SegError | None, Field(description="if status is failed; the region is not changed")
    ] = None
    label: str = ""
    confidence: float = 1.0
    bbox: Annotated[FloatBox, Field(description="in pixels of the picture")]
    crop_region: Annotated[
        Box, Field(description="in pixels of the picture; grown if shapes is throughput")
    ]
    sampled_size: Annotated[
        tuple[int, int] | None, Field(description="(height, width) of the sampled crop")
    ] = None
    seed: int | None = None
    steps_run: int = 0
    sample_s: Annotated[float, Field(description="seconds from encode to decode")] = 0.0
    prompt: Annotated[str | None, Field(description="as it was encoded, wildcards resolved")] = None
    image: Annotated[Buffer | None, Field(description="place in the output detailed_segs")] = None
    control_images: Annotated[
        tuple[Buffer, ...], Field(description="places in the output used_control_images")
    ] = ()


class ImageReport(Model):
    """The form of the output picture."""

    encoding: Literal["png", "jpeg", "webp", "raw", "none"]
    shape: tuple[int, int, Literal[3]]


class Report(Model):
    """The response's JSON: a report for each SEG and pass, in the order of the passes."""

    version: Literal[1] = 1
    request_id: str = ""
    pipeline: str
    image: ImageReport
    segs: tuple[SegReport, ...]
    times_s: Annotated[dict[str, float], Field(description="seconds per stage")]


def parse_request(text: str | bytes, limits: JsonLimits = JsonLimits()) -> DetailRequest:  # noqa: B008
    """Validates the JSON of a request.

    Raises:
        ContractError: names the first wrong field, its value and what is allowed.

    Example:
        >>> parse_request('{"pipeline": "base", "steps": 12}').steps
        12
    """
    data = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    check_size(data, limits)
    try:
        request = DetailRequest.model_validate_json(data)
    except ValidationError as error:
        raise from_validation_error(error) from None
    check_names(data)
    return request


def from_validation_error(error: ValidationError) -> ContractError:
    """The ContractError for the first error of a :class:`DetailRequest`."""
    return refusals.from_validation_error(error, request_schema())


@functools.cache
def request_schema() -> dict[str, Any]:
    """The JSON Schema of :class:`DetailRequest`."""
    return DetailRequest.model_json_schema()
