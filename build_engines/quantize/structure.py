"""Checks the operators of a quantised graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx

from build_engines.errors import BuildError
from pipelines.descriptor import Quantization

LINEAR = ("Conv", "Gemm", "MatMul")
_STORED: dict[Quantization, int] = {
    "int8": onnx.TensorProto.INT8,
    "fp8": onnx.TensorProto.FLOAT8E4M3FN,
}


def check_structure(model: Path, mode: Quantization) -> dict[str, tuple[int, int]]:
    """Reads a graph and checks its quantisation.

    Returns:
        Operators with weights: type → (those with all inputs but the bias quantised, all).

    Raises:
        BuildError: nothing is quantised, or not in this type.
    """
    graph = onnx.load(model, load_external_data=False)
    stored = {each.name: each.data_type for each in graph.graph.initializer}
    quantizing = [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    types = {stored.get(node.input[2]) for node in quantizing}
    if types != {_STORED[mode]}:
        raise BuildError(
            f"quantize: the graph has no {mode}: its zero points are {types or 'none'}"
        )
    dequantized = {
        node.output[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"
    }
    every: Counter[str] = Counter()
    quantized: Counter[str] = Counter()
    for node in graph.graph.node:
        if node.op_type in LINEAR:
            every[node.op_type] += 1
            quantized[node.op_type] += dequantized.issuperset(node.input[:2])
    return {name: (quantized[name], every[name]) for name in LINEAR if every[name]}
