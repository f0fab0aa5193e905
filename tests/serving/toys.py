"""Small Triton repositories for tests of the server itself."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.descriptors import bare_pipeline

_PYTHON_CONFIG = """
backend: "python"
max_batch_size: 0
input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""

_ECHO = """
import os
import sys

import numpy as np
import triton_python_backend_utils as pb_utils

import pipelines
import preprocessing
import sampling
import segs_client
import serving


class TritonPythonModel:
    def execute(self, requests):
        text = f"{sys.version_info[0]}.{sys.version_info[1]} {os.environ['SEGS_REPOSITORIES']}"
        answer = pb_utils.Tensor("text", np.array([text.encode()], dtype=np.object_))
        return [pb_utils.InferenceResponse([answer]) for _ in requests]
"""

_HANGING = """
import pathlib
import time


class TritonPythonModel:
    def execute(self, requests):
        pathlib.Path(__file__).with_name("called").touch()
        time.sleep(600)
"""

_SCALING = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "x") for request in requests]
        outputs = [pb_utils.Tensor("y", tensor.as_numpy() * FACTOR) for tensor in inputs]
        return [pb_utils.InferenceResponse([tensor]) for tensor in outputs]
"""


def add_double(repository: Path, name: str = "double", backend: str = "onnxruntime") -> None:
    """A model of this backend: FP32 x [n, -1] → y = 2x."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder.parent / "config.pbtxt").write_text(
        f'backend: "{backend}"'
        """
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
optimization { graph { level: 1 } }
"""
    )
    write_double(folder / "model.onnx")


def write_double(path: Path) -> None:
    """The ONNX file of y = x + x for x [batch, n]."""
    _write(path, helper.make_node("Add", ["x", "x"], ["y"]))


def write_total(path: Path) -> None:
    """The ONNX file of y = the sum of x [m, n] over m."""
    _write(path, helper.make_node("ReduceSum", ["x", "axes"], ["y"]), axes=[0])


def _write(path: Path, node: onnx.NodeProto, **constants: list[int]) -> None:
    graph = helper.make_graph(
        [node],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["k", "n"])],
        [
            helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
            for name, values in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(path))


def add_echo(repository: Path, name: str = "echo") -> None:
    """A Python model that answers its Python version and its SEGS_REPOSITORIES."""
    add_python(repository, name, _ECHO)


def add_hanging(repository: Path, name: str = "hanging") -> Path:
    """A Python model that does not answer within ten minutes, and the file that it makes when it is
    called."""
    add_python(repository, name, _HANGING)
    return repository / name / "1" / "called"


def add_scaling_backend(backends: Path, name: str, factor: int) -> None:
    """A Python-based backend that answers y = factor · x, whatever is in the model's file."""
    folder = backends / name
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(_SCALING.replace("FACTOR", str(factor)))


def add_python(repository: Path, name: str, source: str) -> None:
    """A Python model, BYTES text [1] → text [1], with this source."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder.parent / "config.pbtxt").write_text(_PYTHON_CONFIG)
    (folder / "model.py").write_text(source)


def add_pipeline(folder: Path) -> Path:
    """A pipeline without networks: enough for the start-up checks."""
    folder.mkdir()
    (folder / "toy.pipeline.json").write_text(bare_pipeline(name="toy").model_dump_json())
    return folder
