"""config.pbtxt: Triton's own parser reads it, and it says what the ONNX file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from pipelines.descriptor import NetworkRole, PipelineDescriptor

ROLES = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
ONNX_TYPES = {"TYPE_FP32": "tensor(float)", "TYPE_INT32": "tensor(int32)"}
NUMPY_TYPES = {"TYPE_FP32": np.float32, "TYPE_INT32": np.int32}
CONTRACT = {
    "text_encoder": (16, {"input_ids": [77]}, {"hidden_state": [77, 32]}),
    "unet": (
        16,
        {"sample": [4, -1, -1], "timestep": [1], "encoder_hidden_states": [-1, 32]},
        {"out_sample": [4, -1, -1]},
    ),
    "vae_encoder": (4, {"sample": [3, -1, -1]}, {"latent_mean": [4, -1, -1]}),
    "vae_decoder": (4, {"latent_sample": [4, -1, -1]}, {"sample": [3, -1, -1]}),
}


def parse(repository: Path, role: str) -> Any:
    text = (repository / f"sd15_{role}" / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def type_name(tensor: Any) -> str:
    return str(model_config_pb2.DataType.Name(tensor.data_type))


@pytest.mark.parametrize("role", ROLES)
def test_config_is_the_fixed_interface(repository: Path, role: str) -> None:
    config = parse(repository, role)
    max_batch, inputs, outputs = CONTRACT[role]
    assert config.name == f"sd15_{role}"
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == max_batch
    assert {t.name: list(t.dims) for t in config.input} == inputs
    assert {t.name: list(t.dims) for t in config.output} == outputs
    (group,) = config.instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert group.count == 1


@pytest.mark.parametrize("role", ROLES)
def test_config_agrees_with_the_model_and_the_descriptor(
    repository: Path, role: NetworkRole
) -> None:
    config = parse(repository, role)
    path = repository / config.name / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    descriptor = PipelineDescriptor.model_validate_json(
        (repository / "sd15.pipeline.json").read_bytes()
    )
    network = descriptor.networks[role]
    assert network.model == config.name
    assert network.max_batch == config.max_batch_size
    for tensors, nodes, described in (
        (config.input, session.get_inputs(), network.inputs),
        (config.output, session.get_outputs(), network.outputs),
    ):
        assert described == {t.name: type_name(t).removeprefix("TYPE_") for t in tensors}
        assert [t.name for t in tensors] == [node.name for node in nodes]
        for tensor, node in zip(tensors, nodes, strict=True):
            assert ONNX_TYPES[type_name(tensor)] == node.type
            assert node.shape[0] == "batch"
            dims = [dim if isinstance(dim, int) else -1 for dim in node.shape[1:]]
            assert list(tensor.dims) == dims


@pytest.mark.parametrize("role", ROLES)
def test_warmup_is_a_valid_request(repository: Path, role: str) -> None:
    config = parse(repository, role)
    (warmup,) = config.model_warmup
    feed = {}
    for tensor in config.input:
        entry = warmup.inputs[tensor.name]
        assert entry.data_type == tensor.data_type
        assert all(-1 in (d, e) or d == e for d, e in zip(tensor.dims, entry.dims, strict=True))
        shape = (warmup.batch_size, *entry.dims)
        feed[tensor.name] = np.zeros(shape, NUMPY_TYPES[type_name(tensor)])
    path = repository / config.name / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert all(np.isfinite(output).all() for output in session.run(None, feed))
