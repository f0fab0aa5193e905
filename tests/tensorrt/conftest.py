"""The bindings' API, the double made of it, and a small graph to build."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from build_engines.export import DATA_FILE, MODEL_FILE
from tests.tensorrt import bindings
from tests.tensorrt.double import Double
from tests.tensorrt.fake import Fake


@pytest.fixture(scope="session")
def bindings_api(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the bindings offer."""
    if reason := bindings.why_not():
        pytest.skip(reason)
    return bindings.read_api(tmp_path_factory.mktemp("tensorrt"))


@pytest.fixture
def api(bindings_api: dict[str, Any]) -> dict[str, Any]:
    """A copy that a test may change."""
    return copy.deepcopy(bindings_api)


@pytest.fixture
def trt(api: dict[str, Any]) -> Double:
    """The double, its calls doing what :class:`Fake` says."""
    return Fake(Double(api)).double


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A graph with two weights beside it, a table of integers and a constant."""
    return write_graph(tmp_path / "graph", seed=0)


def write_graph(folder: Path, seed: int, table: int = 2, channels: int = 4) -> Path:
    """``sample`` [batch, channels, side] and ``gain`` [batch, 1] → ``out``."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    weights: dict[str, Any] = {
        "weight": rng.standard_normal((channels, 1), dtype=np.float32),
        "bias": rng.standard_normal((channels, 1)).astype(np.float16),
        "table": np.arange(table, dtype=np.int64),
    }
    nodes = [
        helper.make_node(
            "Constant", [], ["two"], value=numpy_helper.from_array(np.array(2, np.float32))
        ),
        helper.make_node("Mul", ["sample", "weight"], ["a"]),
        helper.make_node("Cast", ["bias"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Mul", ["c", "two"], ["d"]),
        helper.make_node("Gather", ["gain", "table"], ["e"], axis=1),
        helper.make_node("Identity", ["d"], ["out"]),
    ]
    inputs = [
        helper.make_tensor_value_info("sample", TensorProto.FLOAT, ["batch", channels, "side"]),
        helper.make_tensor_value_info("gain", TensorProto.FLOAT, ["batch", 1]),
    ]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", channels, "side"])
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, [out]))
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(
        *(model, folder / MODEL_FILE),
        save_as_external_data=True,
        location=DATA_FILE,
        size_threshold=0,
    )
    return folder / MODEL_FILE
