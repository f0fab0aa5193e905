"""Exports a torch module as ``model.onnx`` and ``model.onnx.data``.

The exporter is torch's TorchScript one (``dynamo=False``): it takes 1.5 s for an SD1 UNet of 0.8 M
parameters, the dynamo exporter 26 to 30 s with the same result (two cores), and an operator of
onnxruntime needs only a ``symbolic`` method.

The graph is exported without weights. They are written beside it as external data, tensor by
tensor, after applying the transposes and unsqueezes that the exporter puts on constant weights.
onnxruntime maps such a file, so that a loaded session has the weights in memory once.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from networks import NetworkExport

Array = npt.NDArray[Any]

OPSET = 17
MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
_ALIGNMENT_BYTES = 4096
"""Alignment of each tensor in the data file: a page, so that it can be mapped."""


def export_onnx(
    network: NetworkExport, module: nn.Module, folder: Path, domains: Mapping[str, int]
) -> Path:
    """Writes the network into ``folder`` and returns the path of its ``model.onnx``.

    Args:
        network: names and axes.
        module: changed by :meth:`NetworkExport.prepare`; of any precision.
        folder: an existing folder.
        domains: further operator sets with their versions.
    """
    graph = _trace(network, module, domains)
    weights = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    _declare_outputs(network, graph)
    with (folder / DATA_FILE).open("wb") as file:
        _attach(graph, weights, file)
    path = folder / MODEL_FILE
    onnx.save(graph, path)
    return path


def _trace(
    network: NetworkExport, module: nn.Module, domains: Mapping[str, int]
) -> onnx.ModelProto:
    """The graph, with weights as inputs with the parameters' names."""
    axes = {
        tensor.name: {
            0: "batch",
            **{i: dim for i, dim in enumerate(tensor.dims, 1) if isinstance(dim, str)},
        }
        for tensor in (*network.inputs, *network.outputs)
    }
    example = network.example(network.cases()[-1], torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # "trace may not generalise": tested by the check
        path = Path(scratch) / MODEL_FILE
        torch.onnx.export(
            module,
            tuple(example[tensor.name] for tensor in network.inputs),
            str(path),
            dynamo=False,
            export_params=False,
            do_constant_folding=False,  # would copy the weights
            opset_version=OPSET,
            custom_opsets=domains or None,
            input_names=[tensor.name for tensor in network.inputs],
            output_names=[tensor.name for tensor in network.outputs],
            dynamic_axes=axes,
        )
        return onnx.load(str(path))


def _declare_outputs(network: NetworkExport, model: onnx.ModelProto) -> None:
    """Sets the outputs' known sizes, which the trace cannot always infer."""
    del model.graph.output[:]
    for tensor in network.outputs:
        shape = ["batch", *tensor.dims]
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, shape)
        )


def _attach(model: onnx.ModelProto, weights: Mapping[str, torch.Tensor], file: BinaryIO) -> None:
    """Replaces the weight inputs by initializers in ``file``."""
    graph = model.graph
    inputs = [value for value in graph.input if value.name in weights]
    for value in inputs:
        graph.input.remove(value)
    folded = _fold_layout_changes(graph, weights)
    used = {name for node in graph.node for name in node.input}
    for name in (value.name for value in inputs):
        for result, array in ((name, _array(weights[name])), *folded.get(name, ())):
            if result in used:
                graph.initializer.append(_external(result, array, file))


def _fold_layout_changes(
    graph: onnx.GraphProto, weights: Mapping[str, torch.Tensor]
) -> dict[str, list[tuple[str, Array]]]:
    """Removes the Transpose and Unsqueeze nodes whose only input is a weight.

    Returns the views that replace them: weight → (name of the node's result, array).
    """
    constants = {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant"
    }
    folded: dict[str, list[tuple[str, Array]]] = {}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        weight = weights.get(node.input[0]) if node.input else None
        if weight is not None and node.op_type == "Transpose":
            array = _array(weight).transpose(onnx.helper.get_node_attr_value(node, "perm"))
        elif weight is not None and node.op_type == "Unsqueeze":
            array = np.expand_dims(_array(weight), tuple(constants[node.input[1]]))
        else:
            kept.append(node)
            continue
        folded.setdefault(node.input[0], []).append((node.output[0], array))
    needed = Counter(name for node in kept for name in node.input)
    del graph.node[:]
    graph.node.extend(n for n in kept if n.op_type != "Constant" or needed[n.output[0]])
    return folded


def _array(tensor: torch.Tensor) -> Array:
    if tensor.dtype == torch.bfloat16:  # numpy has no bfloat16
        return cast(Array, tensor.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return cast(Array, tensor.detach().numpy())


def _external(name: str, array: Array, file: BinaryIO) -> onnx.TensorProto:
    """Appends the array to the file and returns the initializer that refers to it."""
    file.write(b"\0" * (-file.tell() % _ALIGNMENT_BYTES))
    offset = file.tell()
    file.write(np.ascontiguousarray(array).view(np.uint8).data)
    tensor = onnx.TensorProto(
        name=name,
        dims=array.shape,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    place = {"location": DATA_FILE, "offset": offset, "length": array.nbytes}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor
