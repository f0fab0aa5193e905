"""What Triton is told of an engine: what it is told of the ONNX model, but for the device."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from build_engines.options import TargetOptions
from build_engines.targets.onnx import OnnxTarget
from build_engines.targets.tensorrt import TensorRtTarget
from build_engines.triton_config import ensemble_config, model_config
from networks import ControlNet, Unet
from pipelines.gpu import Gpu
from tests.conftest import CONTROLNET
from tests.tensorrt.graphs import PARTS

MEMORIES_GB = (8.6, 24.1, 85.5)
CASES = list(product(PARTS, MEMORIES_GB))
ONNX = OnnxTarget("fp32")
KIND = model_config_pb2.ModelInstanceGroup
MAY_DIFFER = {"backend", "instance_group", "max_batch_size"}


def tensorrt(memory_gb: float) -> TensorRtTarget:
    gpu = Gpu("NVIDIA A10", "8.6", memory_gb, "580.1")
    builder: Any = None  # is not asked for anything
    return TensorRtTarget(builder, gpu, "fp16", TargetOptions(name="tensorrt"))


def parse(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def differences(one: Any, other: Any) -> set[str]:
    """The fields in which two configurations differ; one that is set but empty counts too."""
    first, second = ({f.name: value for f, value in each.ListFields()} for each in (one, other))
    names = {*first, *second}
    return {name for name in names if name not in first or first[name] != second.get(name)}


@pytest.mark.parametrize(("name", "memory_gb"), CASES)
def test_it_differs_only_where_it_must(name: str, memory_gb: float) -> None:
    network, target = PARTS[name].network, tensorrt(memory_gb)
    onnx = parse(model_config(network, "p", ONNX))
    config = parse(model_config(network, "p", target))
    assert {"backend", "instance_group"} <= differences(onnx, config) <= MAY_DIFFER
    assert config.backend == "tensorrt"
    assert not config.default_model_filename  # Triton's own is model.plan
    profiles = network.profiles(memory_gb)
    (group,) = config.instance_group
    assert (group.kind, group.count) == (KIND.KIND_GPU, 1)
    assert list(group.profile) == (
        [str(i) for i in range(len(profiles))] if len(profiles) > 1 else []
    )
    # Triton refuses a batch size above the largest profile's.
    assert config.max_batch_size == max(profile.rows[2] for profile in profiles)
    (warmup,) = config.model_warmup
    for tensor in network.inputs:
        shape = (warmup.batch_size, *warmup.inputs[tensor.name].dims)
        least, _, most = profiles[0].shapes(tensor)
        assert all(a <= size <= b for a, size, b in zip(least, shape, most, strict=True))


@pytest.mark.parametrize("memory_gb", MEMORIES_GB)
def test_the_ensembles_are_the_same(memory_gb: float) -> None:
    unet = PARTS["sd15-unet"].network
    controlnet = PARTS[f"sd15-controlnet_{CONTROLNET}"].network
    assert isinstance(unet, Unet)
    assert isinstance(controlnet, ControlNet)
    target = tensorrt(memory_gb)
    onnx = parse(ensemble_config(unet, controlnet, "p", ONNX))
    config = parse(ensemble_config(unet, controlnet, "p", target))
    assert differences(onnx, config) <= {"max_batch_size"}
    models = [parse(model_config(each, "p", target)) for each in (unet, controlnet)]
    assert config.max_batch_size == min(each.max_batch_size for each in models)


def test_several_profiles_happen() -> None:
    """Or the list of profiles would never be tested."""
    counts = {len(PARTS[name].network.profiles(memory)) for name, memory in CASES}
    assert counts >= {1, 2, 3}


@pytest.mark.parametrize("field", ["input", "output", "model_warmup", "dynamic_batching"])
def test_another_difference_is_noticed(field: str) -> None:
    network = PARTS["sd15-unet"].network
    onnx, config = (parse(model_config(network, "p", each)) for each in (ONNX, tensorrt(24.1)))
    if field == "dynamic_batching":
        config.dynamic_batching.SetInParent()
    elif field == "model_warmup":
        config.model_warmup[0].batch_size = 2
    else:
        getattr(config, field)[0].name = "renamed"
    assert not differences(onnx, config) <= MAY_DIFFER
