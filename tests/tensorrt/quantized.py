"""Quantised graphs in the form that NVIDIA ModelOpt gives them, see docs/quantization.md.

ModelOpt needs an environment of its own; its own graphs are built by the tests marked ``quantize``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, version_converter

from build_engines.export import DATA_FILE, MODEL_FILE
from build_engines.quantize.structure import LINEAR
from build_engines.quantize.toolkit import EXCLUDED
from pipelines.descriptor import Quantization

OPSET = 19
_MOST = 4.0
"""Greatest magnitude of activations that scales are made for."""
_STORED: dict[Quantization, tuple[Any, float]] = {
    "int8": (np.int8, 127.0),
    "fp8": (ml_dtypes.float8_e4m3fn, 448.0),
}


def quantize(model: Path, mode: Quantization, folder: Path) -> Path:
    """Writes the graph with pairs of QuantizeLinear and DequantizeLinear before the operators with
    weights: a scale per channel for convolutions' weights, one for all else. Returns its path."""
    graph = version_converter.convert_version(onnx.load(model), OPSET)
    weights = {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}
    added = _Added(mode)
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        if node.op_type in LINEAR and not re.fullmatch(EXCLUDED, node.name):
            weight = weights.get(node.input[1])
            if weight is not None:
                axis = 0 if node.op_type == "Conv" else None
                nodes += added.pair(node, 0, np.array(_MOST, weight.dtype), None)
                nodes += added.pair(node, 1, weight, axis)
        nodes.append(node)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend(added.initializers)
    del graph.graph.value_info[:]
    folder.mkdir()
    onnx.save(graph, folder / MODEL_FILE, save_as_external_data=True, location=DATA_FILE)
    return folder / MODEL_FILE


class _Added:
    """The pairs of a graph, with the initializers of their scales and zero points."""

    def __init__(self, mode: Quantization) -> None:
        self._kind, self._most = _STORED[mode]
        self.initializers: list[onnx.TensorProto] = []

    def pair(
        self, node: onnx.NodeProto, index: int, values: npt.NDArray[Any], axis: int | None
    ) -> Iterator[onnx.NodeProto]:
        """Puts a pair before an input; ``values`` decide its scales, along ``axis`` or one."""
        name = f"{node.name}/{index}"
        others = None if axis is None else tuple(i for i in range(values.ndim) if i != axis)
        magnitude = np.maximum(np.abs(values.astype(np.float32)).max(axis=others), 1e-6)
        scale = (magnitude / self._most).astype(values.dtype)
        zero = np.zeros(scale.shape, self._kind)
        for suffix, array in (("scale", scale), ("zero", zero)):
            self.initializers.append(numpy_helper.from_array(array, f"{name}/{suffix}"))
        parameters = [f"{name}/scale", f"{name}/zero"]
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        yield helper.make_node(
            "QuantizeLinear", [node.input[index], *parameters], [f"{name}/q"], **attributes
        )
        yield helper.make_node(
            "DequantizeLinear", [f"{name}/q", *parameters], [f"{name}/dq"], **attributes
        )
        node.input[index] = f"{name}/dq"
