"""What a graph is but for its weights: two checkpoints of the same shape have it in common."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_tensor

_EXCHANGED = frozenset(
    (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
)


@dataclass(frozen=True)
class Structure:
    """A graph without its weights."""

    digest: str
    """SHA-256 of the graph. Of a weight its name, type and shape count, of a table of integers
    and of a constant the values too."""
    weights: frozenset[str]
    """Names of what differs between checkpoints."""
    constants: frozenset[str]
    """Names of what does not."""


def read_structure(path: Path) -> Structure:
    """Reads a graph whose weights lie beside it; they themselves are not read."""
    model = onnx.load(path, load_external_data=False)
    weights = set()
    constants = {
        name for node in model.graph.node if node.op_type == "Constant" for name in node.output
    }
    for tensor in model.graph.initializer:
        if tensor.data_type in _EXCHANGED:
            weights.add(tensor.name)
            for field in ("external_data", "raw_data", "float_data", "int32_data"):
                tensor.ClearField(field)
        else:
            constants.add(tensor.name)
            if onnx.external_data_helper.uses_external_data(tensor):
                load_external_data_for_tensor(tensor, str(path.parent))
                del tensor.external_data[:]
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    return Structure(digest, frozenset(weights), frozenset(constants))
