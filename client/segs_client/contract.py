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
output
``report``          BYTES [1]  JSON of :class:`Report`
``image``           UINT8 [n]  the pasted result in the format asked for
``seg_images``      UINT8 [n]  the detailed crops, where asked for
==================  =========  ==========================================================

An output that has nothing to say has length 0.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

CONTRACT_VERSION = 1
MODEL_NAME = "segs_detailer"

SamplerName = Literal["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde"]
SchedulerName = Literal[
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "normal",
    "linear_quadratic",
    "kl_optimal",
    "AYS SDXL",
    "AYS SD1",
    "AYS SVD",
    "GITS[coeff=1.2]",
]
SegStatus = Literal[
    "enhanced",
    "skipped_empty_mask",
    "skipped_large_enough",
    "skipped_no_upscale",
    "unsampled_schedule_too_short",
]
ErrorCode = Literal["INVALID_ARGUMENT", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL"]

Pixel = Annotated[int, Field(ge=0, le=1 << 20)]
Side = Annotated[int, Field(ge=1, le=1 << 20)]
Box = tuple[Pixel, Pixel, Pixel, Pixel]
PipelineName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Model(BaseModel):
    """Base of every wire model: unknown fields are errors, NaN and infinity too, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Buffer(Model):
    """Where an array lies inside one of the concatenated byte tensors.

    ``float32`` and ``uint8`` are raw little-endian values in C order (uint8 0…255 stands for
    0…1); ``png`` is an encoded file (8-bit grey for masks, RGB for images).
    """

    offset: Annotated[int, Field(ge=0, description="first byte")] = 0
    length: Annotated[int, Field(ge=1, description="number of bytes")]
    shape: Annotated[
        tuple[Side, ...],
        Field(min_length=2, max_length=3, description="[height, width] or [height, width, 3]"),
    ]
    encoding: Literal["float32", "uint8", "png"] = "float32"

    @model_validator(mode="after")
    def _length_fits_shape(self) -> Buffer:
        if len(self.shape) == 3 and self.shape[2] != 3:
            raise ValueError(f"shape {list(self.shape)}: an image has 3 channels")
        if self.encoding != "png":
            expected = math.prod(self.shape) * (4 if self.encoding == "float32" else 1)
            if self.length != expected:
                raise ValueError(
                    f"length {self.length}: shape {list(self.shape)} of {self.encoding} "
                    f"takes {expected} bytes"
                )
        return self


class ImageInput(Model):
    """How the ``image`` tensor is to be read: an encoded file, or raw RGB uint8 ``[H, W, 3]``."""

    encoding: Literal["file", "raw"] = "file"
    shape: Annotated[
        tuple[Side, Side, Literal[3]] | None, Field(description="[H, W, 3]; raw pixels only")
    ] = None

    @model_validator(mode="after")
    def _raw_has_shape(self) -> ImageInput:
        if (self.encoding == "raw") != (self.shape is not None):
            raise ValueError("shape: required with encoding 'raw', and only there")
        return self


class SegItem(Model):
    """One segment. Without ``crop_region`` the request's crop_factor makes one around the box;
    without ``mask`` the box itself, filled, is the mask."""

    bbox: Annotated[Box, Field(description="x1, y1, x2, y2 in pixels, half-open")]
    crop_region: Annotated[
        Box | None, Field(description="what is cut out and redrawn, in pixels of segs.size")
    ] = None
    label: Annotated[str, Field(max_length=1024)] = ""
    confidence: float = 1.0
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
                raise ValueError(f"{name} {list(box)}: x2 > x1 and y2 > y1 are required")
        if self.crop_region is None and (self.mask is not None or self.image is not None):
            raise ValueError("crop_region: required where a mask or an image is given")
        for name, channels in (("mask", 2), ("image", 3)):
            buffer = getattr(self, name)
            if buffer is None:
                continue
            if len(buffer.shape) != channels:
                raise ValueError(f"{name}.shape {list(buffer.shape)}: {channels} numbers expected")
        return self


class SegsInput(Model):
    """The segments and the (height, width) that their pixels refer to. A size other than the
    picture's scales them; null means the picture's own size."""

    size: tuple[Side, Side] | None = None
    items: Annotated[tuple[SegItem, ...], Field(max_length=4096)] = ()


class PasteOptions(Model):
    """SEGSPaste: how the detailed crops go back into the picture."""

    feather: Annotated[int, Field(ge=0, le=100, description="blur radius of the mask, px")] = 5
    alpha: Annotated[int, Field(ge=0, le=255, description="opacity")] = 255


class OutputOptions(Model):
    """What comes back, and how it is encoded."""

    image: Literal["png", "jpeg", "webp", "raw", "none"] = "png"
    quality: Annotated[int, Field(ge=1, le=100, description="of JPEG and WebP")] = 95
    seg_images: Annotated[
        Literal["none", "png", "uint8", "float32"], Field(description="the detailed crops")
    ] = "none"


class DetailRequest(Model):
    """One call of the detailer. Names, defaults and ranges are SEGSDetailer's own."""

    version: Literal[1] = 1
    pipeline: Annotated[PipelineName, Field(description="the basic_pipe: a compiled checkpoint")]
    prompt: Annotated[str, Field(max_length=100_000)] = ""
    negative: Annotated[str, Field(max_length=100_000)] = ""
    image: ImageInput = ImageInput()
    segs: SegsInput = SegsInput()
    crop_factor: Annotated[
        float, Field(ge=1.0, le=100.0, description="for SEGS without a crop_region")
    ] = 3.0
    crop_min_size: Annotated[Side | None, Field(description="least side of such a region")] = None

    guide_size: Annotated[float, Field(ge=64, le=16384)] = 512
    guide_size_for: Annotated[
        bool, Field(description="true: the box is scaled to guide_size; false: the crop region")
    ] = True
    max_size: Annotated[float, Field(ge=64, le=16384)] = 768
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] = 0
    steps: Annotated[int, Field(ge=1, le=10_000)] = 20
    cfg: Annotated[float, Field(ge=0, le=100)] = 8.0
    sampler_name: SamplerName = "euler"
    scheduler: SchedulerName = "normal"
    denoise: Annotated[float, Field(ge=0.0001, le=1)] = 0.5
    noise_mask: bool = True
    force_inpaint: bool = True
    batch_size: Annotated[int, Field(ge=1, le=100)] = 1
    cycle: Annotated[int, Field(ge=1, le=10)] = 1
    noise_mask_feather: Annotated[int, Field(ge=0, le=100)] = 20

    paste: PasteOptions = PasteOptions()
    output: OutputOptions = OutputOptions()


class SegReport(Model):
    """What became of one SEG in one pass."""

    index: Annotated[int, Field(ge=0, description="position among the request's segs")]
    batch_pass: Annotated[int, Field(ge=0, description="0 … batch_size−1")] = 0
    status: SegStatus
    label: str = ""
    confidence: float = 1.0
    bbox: Box
    crop_region: Annotated[Box, Field(description="in pixels of the picture")]
    sampled_size: Annotated[
        tuple[int, int] | None, Field(description="(height, width) that was sampled")
    ] = None
    seed: int | None = None
    steps_run: int = 0
    sample_s: Annotated[float, Field(description="seconds from encode to decode")] = 0.0
    image: Annotated[Buffer | None, Field(description="place in the output seg_images")] = None


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


class ErrorDetail(Model):
    """A refused or failed request. It ends the gRPC status message as one line of JSON."""

    code: ErrorCode
    message: str
    field: Annotated[str | None, Field(description="path in the request, e.g. segs.items.2.mask")]
    value: Annotated[str | None, Field(description="what was sent, shortened")] = None
    allowed: Annotated[str | None, Field(description="what would have been accepted")] = None
    request_id: str = ""


class ContractError(ValueError):
    """Input that breaks the contract; carries the :class:`ErrorDetail` for the answer."""

    def __init__(self, detail: ErrorDetail) -> None:
        super().__init__(detail.message)
        self.detail = detail


def invalid(field: str, message: str, *, value: object = None, allowed: str | None = None) -> ContractError:
    """The error for one wrong ``field``; ``value`` is shortened to 80 characters."""
    shown = None if value is None else _shorten(value)
    text = f"{field}: {message}"
    if shown is not None:
        text += f" (got {shown})"
    if allowed is not None:
        text += f"; allowed: {allowed}"
    return ContractError(
        ErrorDetail(code="INVALID_ARGUMENT", message=text, field=field, value=shown, allowed=allowed)
    )


def parse_request(text: str | bytes) -> DetailRequest:
    """Validates the JSON of a request.

    Raises:
        ContractError: names the first wrong field, its value and what is allowed.
    """
    try:
        return DetailRequest.model_validate_json(text)
    except ValidationError as error:
        raise from_validation_error(error) from None


def from_validation_error(error: ValidationError) -> ContractError:
    """Turns pydantic's first complaint into ours."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "request"
    allowed = _allowed(first["type"], first.get("ctx") or {})
    value = first.get("input")
    simple = isinstance(value, (str, int, float, bool, list, tuple)) or value is None
    return invalid(field, first["msg"], value=value if simple else None, allowed=allowed)


def _allowed(kind: str, ctx: dict[str, Any]) -> str | None:
    if kind == "extra_forbidden":
        return "the fields of the published schema"
    if kind == "literal_error":
        return str(ctx["expected"])
    for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        if key in ctx:
            return f"{sign} {ctx[key]}"
    for key in ("max_length", "min_length", "pattern"):
        if key in ctx:
            return f"{key} {ctx[key]}"
    return None


def _shorten(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
