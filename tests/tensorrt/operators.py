"""A graph against the published operator support of TensorRT's ONNX parser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("operators.json").read_text())
"""The facts, and where they are from."""

_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
}
_OFTEN_INTEGERS = frozenset({"Shape", "Size"})
"""They give INT64 of whatever they get; the table speaks of what they get."""
_TABLES_OF_INTEGERS = {
    "Expand": (1,),
    "Gather": (1,),
    "ConstantOfShape": (0,),
    "Pad": (1,),
    "ReduceMean": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Unsqueeze": (1,),
    "Where": (0,),
}
"""Inputs that are sizes, axes, indices or a condition; the table speaks of the others."""


def complaints(model: onnx.ModelProto) -> list[str]:
    """What TensorRT's parser is not said to take; none for a graph that it takes."""
    least, most = TABLE["opset"]
    found = [
        f"opset {each.domain or 'ai.onnx'} {each.version}"
        for each in model.opset_import
        if each.domain or not least <= each.version <= most
    ]
    types = _infer(model)
    constants = _constants(model.graph)
    for node in model.graph.node:
        found += [f"{node.op_type} {node.name}: {what}" for what in _node(node, types, constants)]
    return found


def _infer(model: onnx.ModelProto) -> dict[str, int]:
    """The type of every tensor, by ONNX's own inference."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=False).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _constants(graph: onnx.GraphProto) -> dict[str, Any]:
    """What is known before it runs: the initializers, whose values are left out, and the
    constants."""
    known: dict[str, Any] = {tensor.name: None for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return known


def _node(
    node: onnx.NodeProto, types: Mapping[str, int], constants: Mapping[str, Any]
) -> Iterator[str]:
    allowed = TABLE["operators"].get(node.op_type)
    if node.domain or allowed is None:
        yield f"not supported (domain {node.domain or 'ai.onnx'})"
        return
    names = [
        name
        for i, name in enumerate(node.input)
        if name and i not in _TABLES_OF_INTEGERS.get(node.op_type, ())
    ]
    names += [] if node.op_type in _OFTEN_INTEGERS else node.output
    for name in names:
        kind = _TYPES.get(types.get(name, TensorProto.UNDEFINED))
        if kind is None:
            yield f"the type of {name!r} is unknown"
        elif kind not in allowed and (node.op_type, name) not in _comparisons(node):
            yield f"{name!r} is {kind}; supported: {', '.join(allowed)}"
    if check := _RESTRICTIONS.get(node.op_type):
        yield from check(node, constants)


def _comparisons(node: onnx.NodeProto) -> set[tuple[str, str]]:
    """A comparison gives BOOL; the table speaks of what is compared."""
    compares = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    return {(node.op_type, name) for name in node.output if node.op_type in compares}


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _resize(node: onnx.NodeProto, constants: Mapping[str, Any]) -> Iterator[str]:
    given: dict[str, Any] = {
        "mode": "nearest",
        "coordinate_transformation_mode": "half_pixel",
        "nearest_mode": "round_prefer_floor",
        "keep_aspect_ratio_policy": "stretch",
        "antialias": 0,
        **_attributes(node),
    }
    for name, allowed in TABLE["resize"].items():
        value = given[name]
        value = value.decode() if isinstance(value, bytes) else value
        if value not in allowed:
            yield f"{name} is {value}; supported: {', '.join(map(str, allowed))}"


def _known_axes(node: onnx.NodeProto, constants: Mapping[str, Any]) -> Iterator[str]:
    if len(node.input) > 1 and node.input[1] and node.input[1] not in constants:
        yield f"its axes {node.input[1]!r} are no constant"


def _first_output_only(node: onnx.NodeProto, constants: Mapping[str, Any]) -> Iterator[str]:
    if any(node.output[1:]):
        yield "only its first output is supported"


def _parameters_known(node: onnx.NodeProto, constants: Mapping[str, Any]) -> Iterator[str]:
    """Up to 8.5 the scale and bias of a normalisation had to be initializers; an engine with
    constant ones is also what TensorRT fuses best."""
    for name in node.input[1:]:
        if name not in constants:
            yield f"its parameter {name!r} is no constant"


def _tensor_value(node: onnx.NodeProto, constants: Mapping[str, Any]) -> Iterator[str]:
    refused = {"sparse_value", "value_string", "value_strings"} & set(_attributes(node))
    if refused:
        yield f"{', '.join(refused)} is not supported"


def _small_k(node: onnx.NodeProto, constants: Mapping[str, Any]) -> Iterator[str]:
    k = constants.get(node.input[1])
    if k is None or int(np.max(k)) >= TABLE["topk_below"]:
        yield f"K has to be below {TABLE['topk_below']}"


_RESTRICTIONS: dict[str, Callable[[onnx.NodeProto, Mapping[str, Any]], Iterator[str]]] = {
    "Constant": _tensor_value,
    "InstanceNormalization": _parameters_known,
    "LayerNormalization": _first_output_only,
    "ReduceMean": _known_axes,
    "ReduceSum": _known_axes,
    "ReduceMax": _known_axes,
    "Resize": _resize,
    "Squeeze": _known_axes,
    "TopK": _small_k,
    "Unsqueeze": _known_axes,
}
