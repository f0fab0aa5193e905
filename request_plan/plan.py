"""The plan: the result of prepare and the input of sample and composite, sent as JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from segs_client.contract import Box, DetailRequest, FloatBox, SegError, SegStatus


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Piece(_Model):
    """A crop or mask inside a flat tensor: uint8 ``[h, w, 3]`` or float32 ``[h, w]``."""

    offset: int
    height: int
    width: int


class Bytes(_Model):
    """Bytes inside a flat tensor."""

    offset: int
    length: int


class PlannedPrompt(_Model):
    """One conditioning of a side; ``mask`` covers the whole picture, in tensor masks, float32."""

    text: str
    mask: Piece | None = None
    strength: float = 1.0


class PlannedControl(_Model):
    """One ControlNet of a SEG's chain; ``hint`` is in tensor crops."""

    name: str
    strength: float
    start_percent: float
    end_percent: float
    hint: Piece


class PlannedSeg(_Model):
    """One SEG, in pixels of the picture, with all options resolved."""

    bbox: FloatBox
    crop_region: Box
    label: str
    confidence: float
    mask: Annotated[Piece, Field(description="in tensor masks, float32")]
    given: Annotated[Piece | None, Field(description="own crop, in tensor given, float32")] = None
    crop: Annotated[Piece | None, Field(description="resized crop, in tensor crops")] = None
    controls: tuple[PlannedControl, ...] = ()
    positives: tuple[PlannedPrompt, ...] = ()
    negatives: tuple[PlannedPrompt, ...] = ()
    refiner_positives: tuple[PlannedPrompt, ...] = ()
    refiner_negatives: tuple[PlannedPrompt, ...] = ()
    seed: int = 0
    steps: int = 1
    cfg: float = 1.0
    denoise: float = 1.0
    skip: SegStatus | None = None


class Plan(_Model):
    """A validated request and the place of every array."""

    request: DetailRequest
    request_id: str
    deadline_s: Annotated[float | None, Field(description="time.time() at which it is late")]
    image_size: Annotated[tuple[int, int], Field(description="height, width")]
    segs: tuple[PlannedSeg, ...]
    profile: Annotated[
        Bytes | None, Field(description="ICC profile of the picture's values, in tensor given")
    ] = None
    prepare_s: float
    memory_bytes: Annotated[int, Field(description="of all its arrays, by declared shapes")]


class SampledSeg(_Model):
    """A sampled SEG of one pass; ``pixels`` are in tensor ``sampled``."""

    index: int
    batch_pass: int
    status: Literal["enhanced", "unsampled_schedule_too_short"]
    pixels: Piece
    seed: int
    steps_run: int
    sample_s: float


class FailedSeg(_Model):
    """A failed SEG of one pass."""

    index: int
    batch_pass: int
    seed: int
    error: SegError


class SampleOutcome(_Model):
    """The result of sample: all sampled and failed SEGs, pass by pass."""

    segs: tuple[SampledSeg, ...]
    failed: tuple[FailedSeg, ...] = ()
    sample_s: float
