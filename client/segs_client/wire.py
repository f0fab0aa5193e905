"""What all parts of the contract are made of: the base model, boxes, names and buffers."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segs_client.refusals import refuse

Pixel = Annotated[int, Field(ge=0, le=1 << 20)]
Side = Annotated[int, Field(ge=1, le=1 << 20)]
Box = tuple[Pixel, Pixel, Pixel, Pixel]
PipelineName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Model(BaseModel):
    """Base of every wire model: unknown fields, NaN and infinity are errors; nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Buffer(Model):
    """Where an array lies inside one of the concatenated byte tensors.

    ``float32`` and ``uint8`` are raw little-endian values in C order; ``png`` is an encoded file
    (8-bit grey for masks, RGB for images). A byte ``b`` stands for ``float32(b) / float32(255)``.
    """

    offset: Annotated[int, Field(ge=0, le=1 << 40, description="first byte")] = 0
    length: Annotated[int, Field(ge=1, le=1 << 40, description="number of bytes")]
    shape: Annotated[
        tuple[Side, ...],
        Field(
            min_length=2,
            max_length=3,
            description="[height, width] or [height, width, 3]",
            fail_fast=True,
        ),
    ]
    encoding: Annotated[
        Literal["float32", "uint8", "png"], Field(description="how the values are stored")
    ] = "float32"

    @model_validator(mode="after")
    def _length_fits_shape(self) -> Buffer:
        shape = list(self.shape)
        if len(shape) == 3 and shape[2] != 3:
            allowed = "[height, width] or [height, width, 3]"
            raise refuse("shape", "an image has 3 channels", value=shape, allowed=allowed)
        if self.encoding != "png":
            expected = math.prod(shape) * (4 if self.encoding == "float32" else 1)
            if self.length != expected:
                allowed = f"{expected} for {self.encoding} of shape {shape}"
                raise refuse("length", "does not fit the shape", value=self.length, allowed=allowed)
        return self
