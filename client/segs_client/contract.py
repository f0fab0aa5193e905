"""The wire contract, version 1: what the JSON of a request and of a report may say.

Client and server both validate with these models; the published JSON Schema is generated from
them. Boxes are half-open integer pixels (x1, y1, x2, y2); sizes are (height, width).

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
``detailed_image``  UINT8 [n]  the pasted result in the format asked for
``detailed_segs``   UINT8 [n]  the detailed crops, where asked for
``used_control_images``  UINT8 [n]  the control images that were used, where asked for
==================  =========  ==========================================================

(An ensemble has one name space for all its tensors: no output may be named as an input is.)

An output that has nothing to say has length 0.
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
    SegOptions,
    SegPrompts,
    StreamOptions,
    Wildcards,
    check_axes,
)
from segs_client.json_text import JsonLimits, check_names, check_size
from segs_client.refusals import ContractError, ErrorCode, ErrorDetail, invalid, refuse
from segs_client.wire import Box, Buffer, Model, PipelineName, Side

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
API_KEY_HEADER = "x-api-key"  # gRPC metadata, or HTTP header, of a server that wants keys
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
    """How the ``image`` tensor is to be read: an encoded file, or raw RGB uint8 ``[H, W, 3]``."""

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
            raise refuse("shape", "the file tells its own", value=list(self.shape), allowed="null")
        return self


class SegItem(SegOptions):
    """One segment, with options of its own where they differ from the request's.

    Without ``crop_region`` the request's crop_factor makes one around the box; without ``mask``
    the box itself, filled, is the mask."""

    bbox: Annotated[Box, Field(description="x1, y1, x2, y2 in pixels, half-open")]
    crop_region: Annotated[
        Box | None, Field(description="what is cut out and redrawn, in pixels of segs.size")
    ] = None
    label: Annotated[str, Field(max_length=1024, description="comes back in the report")] = ""
    confidence: Annotated[float, Field(description="comes back in the report")] = 1.0
    mask: Annotated[
        Buffer | None, Field(description="cropped mask [h, w], 0..1, of the crop region's size")
    ] = None
    image: Annotated[
        Buffer | None, Field(description="own crop [h, w, 3] used instead of cutting the image")
    ] = None

    @model_validator(mode="after")
    def _boxes_have_area(self) -> SegItem:
        for name in ("bbox", "crop_region"):
            box = getattr(self, name)
            if box is not None and (box[2] <= box[0] or box[3] <= box[1]):
                allowed = "x1, y1, x2, y2 with x2 > x1 and y2 > y1"
                raise refuse(name, "has no area", value=list(box), allowed=allowed)
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
    """The segments and the (height, width) that their pixels refer to. A size other than the
    picture's scales them; null means the picture's own size."""

    size: Annotated[
        tuple[Side, Side] | None, Field(description="height, width; null: the picture's own")
    ] = None
    items: Annotated[
        tuple[SegItem, ...],
        Field(max_length=4096, description="in order", fail_fast=True),
    ] = ()


class PasteOptions(Model):
    """SEGSPaste: how the detailed crops go back into the picture."""

    feather: Annotated[int, Field(ge=0, le=100, description="blur radius of the mask, px")] = 5
    alpha: Annotated[int, Field(ge=0, le=255, description="opacity")] = 255


class OutputOptions(Model):
    """What comes back, and how it is encoded."""

    image: Annotated[
        Literal["png", "jpeg", "webp", "raw", "none"],
        Field(description="form of the pasted picture; raw is RGB uint8 [H, W, 3]"),
    ] = "png"
    quality: Annotated[int, Field(ge=1, le=100, description="of JPEG and WebP")] = 95
    seg_images: Annotated[
        Literal["none", "png", "uint8", "float32"], Field(description="the detailed crops")
    ] = "none"
    control_images: Annotated[
        bool, Field(description="also the control images that were used, as PNG")
    ] = False


class DetailRequest(Model):
    """One call of the detailer. Names, defaults and ranges are SEGSDetailer's own."""

    version: Annotated[Literal[1], Field(description="of this contract")] = 1
    pipeline: Annotated[PipelineName, Field(description="the basic_pipe: a compiled checkpoint")]
    prompt: Annotated[str, Field(max_length=100_000, description="what is to be drawn")] = ""
    negative: Annotated[str, Field(max_length=100_000, description="what is to be avoided")] = ""
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
        SegPrompts | None, Field(description="prompts dealt out to the SEGS")
    ] = None
    wildcards: Wildcards = Field(
        default_factory=dict, description="name → lines: what __name__ in a prompt stands for"
    )
    image: Annotated[ImageInput, Field(description="how the image tensor is read")] = ImageInput()
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
        float, Field(ge=64, le=16384, description="most that a sampled crop's side may be, px")
    ] = 768
    shapes: Annotated[
        Literal["exact", "throughput"],
        Field(
            description="exact: every SEG at its own size, as SEGSDetailer; throughput: crop "
            "regions grown a little to a few common sizes, so that more SEGs share batches"
        ),
    ] = "exact"
    seed: Annotated[
        int, Field(ge=0, le=2**64 - 1, description="of the noise; batch_pass n has seed + n + 1")
    ] = 0
    steps: Annotated[int, Field(ge=1, le=10_000, description="sampling steps per cycle")] = 20
    cfg: Annotated[float, Field(ge=0, le=100, description="classifier-free guidance scale")] = 8.0
    sampler_name: Annotated[SamplerName, Field(description="the sampler")] = "euler"
    scheduler: Annotated[SchedulerName, Field(description="the noise levels")] = "normal"
    denoise: Annotated[
        float, Field(ge=0.0001, le=1, description="share of the schedule that is run")
    ] = 0.5
    noise_mask: Annotated[
        bool, Field(description="redraw only inside the mask, not the whole crop")
    ] = True
    force_inpaint: Annotated[
        bool, Field(description="redraw also SEGS that are large enough already")
    ] = True
    batch_size: Annotated[int, Field(ge=1, le=100, description="passes over all SEGS")] = 1
    cycle: Annotated[int, Field(ge=1, le=10, description="samplings in a row of each SEG")] = 1
    noise_mask_feather: Annotated[
        int,
        Field(ge=0, le=100, description="blur radius of the noise mask, px; 0 keeps it hard"),
    ] = 20

    refiner: Annotated[
        Refiner | None, Field(description="refiner_basic_pipe_opt: what runs the last steps")
    ] = None
    refiner_ratio: Annotated[
        float, Field(ge=0, le=1, description="share of the steps that the refiner runs")
    ] = 0.2
    inpaint_model: Annotated[
        bool, Field(description="feed a 9-channel network what lies around the mask")
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
        Field(description="under load: each step up gets four times the device"),
    ] = "normal"
    paste: Annotated[PasteOptions, Field(description="how crops go back")] = PasteOptions()
    output: Annotated[OutputOptions, Field(description="what comes back")] = OutputOptions()
    stream: Annotated[StreamOptions, Field(description="which events are sent")] = StreamOptions()


class SegError(Model):
    """Why one SEG failed, by no fault of the request's; the others are not touched by it."""

    code: ErrorCode
    message: Annotated[str, Field(description="one sentence for people")]
    incident: Annotated[str, Field(description="what the server's log has the story under")]


class SegReport(Model):
    """What became of one SEG in one pass."""

    index: Annotated[int, Field(ge=0, description="position among the request's segs")]
    batch_pass: Annotated[int, Field(ge=0, description="0 … batch_size−1")] = 0
    status: SegStatus
    error: Annotated[
        SegError | None, Field(description="where status is failed; its region stays as it came")
    ] = None
    label: str = ""
    confidence: float = 1.0
    bbox: Box
    crop_region: Annotated[
        Box, Field(description="in pixels of the picture; grown where shapes is throughput")
    ]
    sampled_size: Annotated[
        tuple[int, int] | None, Field(description="(height, width) that was sampled")
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
    """The output picture's form."""

    encoding: Literal["png", "jpeg", "webp", "raw", "none"]
    shape: tuple[int, int, Literal[3]]


class Report(Model):
    """The answer's JSON: per SEG and pass its status, in the order of the passes."""

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
    """Turns the first complaint about a :class:`DetailRequest` into ours."""
    return refusals.from_validation_error(error, request_schema())


@functools.cache
def request_schema() -> dict[str, Any]:
    """The JSON Schema of :class:`DetailRequest`."""
    return DetailRequest.model_json_schema()
