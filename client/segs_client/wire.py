"""The common parts of the contract: the base model, boxes, names and buffers."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from segs_client.refusals import refuse


def _as_given(value: Any, handler: ValidatorFunctionWrapHandler) -> float:
    """Whole numbers stay ints: by that, a box decides in which arithmetic it counts."""
    number: float = handler(value)
    return int(number) if isinstance(value, Integral) else number


Pixel = Annotated[int, Field(ge=0, le=1 << 20)]
Edge = Annotated[
    float,
    Field(ge=-(1 << 20), le=1 << 20),
    WrapValidator(_as_given),
    PlainSerializer(lambda number: number, return_type=int | float),
]
Side = Annotated[int, Field(ge=1, le=1 << 20)]
Box = tuple[Pixel, Pixel, Pixel, Pixel]
FloatBox = tuple[Edge, Edge, Edge, Edge]
PipelineName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


def _number(value: Any) -> Any:
    if isinstance(value, bool | str | bytes):
        raise PydanticKnownError("int_type")
    return value


def _read_numbers_only(node: Any, model: type[BaseModel]) -> None:
    """Changes pydantic's schema of a model in place, so that numbers are read from numbers only.

    Strict mode would refuse more than the JSON Schema, where 20.0 is a whole number. Nested models
    are changed already.
    """
    if isinstance(node, list | tuple):
        for each in node:
            _read_numbers_only(each, model)
    if not isinstance(node, dict):
        return
    kind = node.get("type")
    if kind == "int" or (kind == "literal" and any(type(each) is int for each in node["expected"])):
        inner = node.copy()
        node.clear()
        node.update(core_schema.no_info_before_validator_function(_number, inner))
    elif kind == "float":
        node["strict"] = True
    elif node.get("cls", model) is model and node.get("function") != {
        "type": "no-info",
        "function": _number,
    }:
        for name, each in node.items():
            if name not in ("metadata", "default", "config", "serialization"):
                _read_numbers_only(each, model)


class Model(BaseModel):
    """Base of all wire models, immutable. Unknown fields, NaN and infinity are errors, and also
    true, false and text instead of a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler(source)
        _read_numbers_only(handler.resolve_ref_schema(schema), cls)
        return schema


class Buffer(Model):
    """The place of an array in one of the concatenated byte tensors.

    ``float32`` and ``uint8`` are raw little-endian values in C order; ``png`` is an encoded file
    (8-bit grey for masks, RGB for images). A byte ``b`` means ``float32(b) / float32(255)``.
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
