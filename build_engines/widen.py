"""Converts a graph in half precision to float32: onnxruntime on a CPU has no bfloat16 and, up to
1.24, rounds float16 towards zero when it quantises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[Any]

HALVES = {onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16}
_WIDE = onnx.TensorProto.FLOAT


def widen(model: Path, folder: Path) -> Path:
    """Writes the widened graph and its weights into ``folder`` and returns its path.

    Args:
        model: ``model.onnx``, with its weights in a file beside it.
    """
    graph = onnx.load(model, load_external_data=False)
    target = folder / model.name
    data = folder / "wide.data"
    with data.open("wb") as file:
        for tensor in graph.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                array = onnx.numpy_helper.to_array(tensor, str(model.parent))
                wide = _wide(array)
                tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(wide.dtype)
                del tensor.external_data[:]
                place = {"location": data.name, "offset": file.tell(), "length": wide.nbytes}
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=str(value))
                file.write(np.ascontiguousarray(wide).data)
    for constant in _constants(graph.graph):
        if constant.data_type in HALVES:
            constant.CopyFrom(
                onnx.numpy_helper.from_array(
                    _wide(onnx.numpy_helper.to_array(constant)), constant.name
                )
            )
    for node in graph.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in HALVES:
                attribute.i = _WIDE
    del graph.graph.value_info[:]
    onnx.save(graph, target)
    return target


def _wide(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype in (ml_dtypes.bfloat16, np.float16) else array


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            yield tensor
