"""Every operator of every graph, with its types, is one that TensorRT's parser takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipelines.descriptor import Precision
from tests.tensorrt.graphs import ALL, PARTS, export
from tests.tensorrt.operators import TABLE, complaints

WORKS_IN = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def test_every_kind_of_network_is_looked_at() -> None:
    roles = {part.network.role for part in PARTS.values()}
    assert roles >= {"text_encoder", "text_encoder_2", "unet", "vae_encoder", "vae_decoder"}
    assert any(role.startswith("controlnet") for role in roles)
    assert {part.pipeline for part in PARTS.values()} >= {"sd15", "sd15-inpaint", "sdxl"}


@pytest.mark.parametrize(("name", "precision"), ALL)
def test_the_parser_takes_the_graph(name: str, precision: Precision) -> None:
    path = export(name, precision)
    model = onnx.load(path, load_external_data=False)
    assert complaints(model) == []
    network = PARTS[name].network
    assert [value.name for value in model.graph.input] == [each.name for each in network.inputs]
    assert [value.name for value in model.graph.output] == [each.name for each in network.outputs]
    # Strongly typed: the engine computes in the graph's types, so the weights say the precision.
    kinds = [tensor.data_type for tensor in model.graph.initializer]
    assert kinds.count(WORKS_IN[precision]) > len(kinds) / 2


def resize(**attributes: Any) -> onnx.ModelProto:
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], **attributes)
    return graph([node], scales=np.ones(4, np.float32))


def graph(
    nodes: list[onnx.NodeProto], kind: int = TensorProto.FLOAT, version: int = 17, **weights: Any
) -> onnx.ModelProto:
    """A graph from ``x`` [1, 4, 8, 8] to ``y``."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    domains = {node.domain for node in nodes} | {""}
    imports = [helper.make_opsetid(each, 1 if each else version) for each in sorted(domains)]
    return helper.make_model(made, opset_imports=imports)


def node(kind: str, *more: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, ["x", *more], ["y"], **attributes)


GOOD = {
    "an activation": graph([node("Sigmoid")]),
    "nearest": resize(mode="nearest", coordinate_transformation_mode="asymmetric"),
    "a shape": graph([helper.make_node("Shape", ["x"], ["s"]), node("Reshape", "s")]),
    "a comparison": graph(
        [
            helper.make_node("Greater", ["x", "x"], ["b"]),
            helper.make_node("Where", ["b", "x", "x"], ["y"]),
        ]
    ),
}
BAD = {
    "an operator that is unknown": (graph([node("Bernoulli")]), "Bernoulli : not supported"),
    "onnxruntime's own": (
        graph([node("MultiHeadAttention", domain="com.microsoft")]),
        "MultiHeadAttention : not supported",
    ),
    "another opset": (graph([node("Sigmoid")], version=25), "opset ai.onnx 25"),
    "a type": (graph([node("Sigmoid")], TensorProto.DOUBLE), "type of 'x' is unknown"),
    "a type of that operator": (
        graph([node("Softmax")], TensorProto.INT32),
        "'x' is INT32; supported: FP32, FP16, BF16",
    ),
    "cubic": (resize(mode="cubic"), "mode is cubic; supported: nearest, linear"),
    "antialias": (resize(mode="linear", antialias=1), "antialias is 1"),
    "a cropping Resize": (
        resize(coordinate_transformation_mode="tf_crop_and_resize"),
        "coordinate_transformation_mode is tf_crop_and_resize",
    ),
    "a computed scale": (
        graph([node("InstanceNormalization", "x", "x")]),
        "its parameter 'x' is no constant",
    ),
    "computed axes": (
        graph([helper.make_node("Shape", ["x"], ["s"]), node("Squeeze", "s")]),
        "its axes 's' are no constant",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_it_takes(name: str) -> None:
    assert complaints(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_what_it_does_not_take_is_told(name: str) -> None:
    model, complaint = BAD[name]
    assert any(complaint in each for each in complaints(model)), complaints(model)


def test_the_table_says_where_it_is_from() -> None:
    assert TABLE["opset"] == [9, 24]
    assert "10.15" in TABLE["version"]
    assert len(TABLE["operators"]) > 100
