"""config.pbtxt: Triton's own parser reads it, and it says what the ONNX file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from build_engines.controlnets import open_controlnets
from build_engines.formats import open_checkpoint
from build_engines.targets.onnx import OnnxTarget
from build_engines.triton_config import ensemble_config, model_config
from networks import Unet
from pipelines.descriptor import Network, PipelineDescriptor, load_all
from tests.build_engines.conftest import open_model
from tests.conftest import CHECKPOINTS, CONTROLNET, PIPELINES

ONNX = OnnxTarget("fp32")

ONNX_TYPES = {"TYPE_FP32": "tensor(float)", "TYPE_INT32": "tensor(int32)"}
NUMPY_TYPES = {"TYPE_FP32": np.float32, "TYPE_INT32": np.int32}
LATENT = [4, -1, -1]
SD1 = {
    "text_encoder": (16, {"input_ids": [77]}, {"hidden_state": [77, 32]}),
    "unet": (
        16,
        {"sample": LATENT, "timestep": [1], "encoder_hidden_states": [-1, 32]},
        {"out_sample": LATENT},
    ),
    "vae_encoder": (4, {"sample": [3, -1, -1]}, {"latent_mean": LATENT}),
    "vae_decoder": (4, {"latent_sample": LATENT}, {"sample": [3, -1, -1]}),
}
RESIDUALS = {
    **{f"down_residual_{i}": [c, -1, -1] for i, c in enumerate((32, 32, 32, 64))},
    "mid_residual": [64, -1, -1],
}
ENCODER_2 = (16, {"input_ids": [77]}, {"hidden_state": [77, 32], "pooled": [32]})


def unet(sample: int, context: int, **more: list[int]) -> Any:
    inputs = {"sample": [sample, -1, -1], "timestep": [1], "encoder_hidden_states": [-1, context]}
    return 16, {**inputs, **more}, {"out_sample": LATENT}


CONTROL = {"controlnet_cond": [3, -1, -1], "conditioning_scale": [1]}
CONTRACT = {
    "sd15": {
        **SD1,
        "unet": unet(4, 32, **RESIDUALS),
        "controlnet_controlnet": (16, unet(4, 32, **CONTROL)[1], RESIDUALS),
    },
    "sd15-inpaint": {**SD1, "unet": unet(9, 32)},
    "sd15-v": SD1,
    "sd15-refiner": SD1,
    "sdxl": {
        **SD1,
        "text_encoder_2": ENCODER_2,
        "unet": unet(4, 64, text_embeds=[32], time_ids=[6]),
    },
    "sdxl-refiner": {
        "text_encoder_2": ENCODER_2,
        "unet": unet(4, 32, text_embeds=[32], time_ids=[5]),
        "vae_encoder": SD1["vae_encoder"],
        "vae_decoder": SD1["vae_decoder"],
    },
}
MODELS = [(name, role) for name, models in CONTRACT.items() for role in models]


def parse(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def parse_file(repository: Path, model: str) -> Any:
    return parse((repository / model / "config.pbtxt").read_text())


def type_name(tensor: Any) -> str:
    return str(model_config_pb2.DataType.Name(tensor.data_type))


def networks(descriptor: PipelineDescriptor) -> dict[str, Network]:
    found: dict[str, Network] = dict(descriptor.networks.items())
    found |= {f"controlnet_{name}": each.network for name, each in descriptor.controlnets.items()}
    return found


@pytest.mark.parametrize("name", PIPELINES)
def test_every_network_has_a_contract(repository: Path, name: str) -> None:
    descriptor, _ = load_all([repository])[name]
    assert networks(descriptor).keys() == CONTRACT[name].keys()


@pytest.mark.parametrize(("name", "role"), MODELS)
def test_config_is_the_fixed_interface(repository: Path, name: str, role: str) -> None:
    config = parse_file(repository, f"{name}_{role}")
    max_batch, inputs, outputs = CONTRACT[name][role]
    assert config.name == f"{name}_{role}"
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == max_batch
    assert {t.name: list(t.dims) for t in config.input} == inputs
    assert {t.name: list(t.dims) for t in config.output} == outputs
    (group,) = config.instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert group.count == 1


@pytest.mark.parametrize(("name", "role"), MODELS)
def test_config_agrees_with_the_model_and_the_descriptor(
    repository: Path, name: str, role: str
) -> None:
    config = parse_file(repository, f"{name}_{role}")
    session = open_model(repository, config.name)
    descriptor, _ = load_all([repository])[name]
    network = networks(descriptor)[role]
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


@pytest.mark.parametrize(("name", "role"), MODELS)
def test_warmup_is_a_valid_request(repository: Path, name: str, role: str) -> None:
    config = parse_file(repository, f"{name}_{role}")
    (warmup,) = config.model_warmup
    feed = {}
    for tensor in config.input:
        entry = warmup.inputs[tensor.name]
        assert entry.data_type == tensor.data_type
        assert all(-1 in (d, e) or d == e for d, e in zip(tensor.dims, entry.dims, strict=True))
        shape = (warmup.batch_size, *entry.dims)
        feed[tensor.name] = np.zeros(shape, NUMPY_TYPES[type_name(tensor)])
    session = open_model(repository, config.name)
    assert all(np.isfinite(output).all() for output in session.run(None, feed))


def check_ensemble(config: Any, controlnet: Any, unet: Any) -> None:
    """The maps are complete: every tensor of a step is an input, or an earlier step's output,
    of the same type and dims; no output is named as an input."""
    assert config.platform == "ensemble"
    assert config.max_batch_size == unet.max_batch_size <= controlnet.max_batch_size
    known = {t.name: (t.data_type, list(t.dims)) for t in config.input}
    assert not known.keys() & {t.name for t in config.output}
    used: set[str] = set()
    steps = config.ensemble_scheduling.step
    assert [step.model_name for step in steps] == [controlnet.name, unet.name]
    for step, model in zip(steps, (controlnet, unet), strict=True):
        assert {*step.input_map} == {t.name for t in model.input}
        assert {*step.output_map} == {t.name for t in model.output}
        for tensor in model.input:
            source = step.input_map[tensor.name]
            assert known[source] == (tensor.data_type, list(tensor.dims))
            used.add(source)
        for tensor in model.output:
            result = step.output_map[tensor.name]
            assert result not in known
            known[result] = (tensor.data_type, list(tensor.dims))
    assert {t.name for t in config.input} <= used
    for tensor in config.output:
        assert known[tensor.name] == (tensor.data_type, list(tensor.dims))


def test_the_ensemble_is_complete(repository: Path) -> None:
    descriptor, _ = load_all([repository])["sd15"]
    control = descriptor.controlnets[CONTROLNET]
    assert control.unet == f"sd15_unet_{CONTROLNET}"
    assert (repository / control.unet / "1").is_dir()
    config = parse_file(repository, control.unet)
    assert config.name == control.unet
    check_ensemble(
        config,
        parse_file(repository, control.network.model),
        parse_file(repository, descriptor.networks["unet"].model),
    )
    inputs = {t.name: list(t.dims) for t in config.input}
    assert inputs == unet(4, 32, **CONTROL)[1]
    assert [t.name for t in config.output] == ["out_sample"]


def test_an_inpainting_ensemble_takes_the_latent_apart() -> None:
    """The UNet's sample has the mask and the masked picture, the ControlNet's has not."""
    config = open_checkpoint(CHECKPOINTS / "sd15-inpaint").json("unet/config.json")
    inpaint = Unet(config, controlled=True)
    ((controlnet, _),) = open_controlnets({"x": CHECKPOINTS / CONTROLNET}, inpaint)
    ensemble = parse(ensemble_config(inpaint, controlnet, "p", ONNX))
    models = [parse(model_config(network, "p", ONNX)) for network in (controlnet, inpaint)]
    check_ensemble(ensemble, *models)
    inputs = {t.name: list(t.dims) for t in ensemble.input}
    assert inputs == {**unet(9, 32, **CONTROL)[1], "control_sample": LATENT}
