"""Pipelines for torch: their files, the networks made from them, precisions, limits, configs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from google.protobuf import text_format
from safetensors.torch import load_file
from tritonclient.grpc import model_config_pb2

from build_engines import TargetOptions, VerificationError, build, builder
from build_engines.families import detect
from build_engines.formats import open_checkpoint
from build_engines.targets import open_target
from build_engines.targets import torch as torch_target
from build_engines.verify import TOLERANCES, references
from build_engines.weights import load_network
from networks import Adapter, ClipTextEncoder, NetworkExport, Unet, VaeDecoder, VaeEncoder, stored
from networks.precision import DTYPES, lowered, overflowing
from networks.stored import NetworkFile, read_network, write_network
from pipelines.descriptor import Precision, load_all
from tests.conftest import CHECKPOINTS, CONTROLNET

CPU = torch.device("cpu")
ROLES = ("text_encoder", "unet", "vae_encoder", "vae_decoder", f"controlnet_{CONTROLNET}")


def opened(name: str, role: str) -> tuple[NetworkExport, Adapter]:
    checkpoint = open_checkpoint(CHECKPOINTS / name)
    networks = detect(checkpoint).open_networks(checkpoint, controlled=False)
    network = next(each for each in networks if each.role == role)
    return network, load_network(network, checkpoint)


def first(outputs: Any) -> torch.Tensor:
    found: torch.Tensor = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    return found


def error(outputs: Any, expected: Any) -> float:
    """Relative to the greatest expected value."""
    wanted = torch.as_tensor(expected)
    return float((first(outputs) - wanted).abs().max() / wanted.abs().max())


def test_a_pipeline_has_the_same_models_in_other_files(
    torch_repository: Path, repository: Path
) -> None:
    descriptor, _ = load_all([torch_repository])["sd15"]
    onnx, _ = load_all([repository])["sd15"]
    assert (descriptor.target, descriptor.precision, descriptor.engine) == ("torch", "fp32", None)
    assert descriptor.models == onnx.models
    for network, other in zip(descriptor.all_networks, onnx.all_networks, strict=True):
        without_files: dict[str, Any] = {"files": {}}
        assert network.model_copy(update=without_files) == other.model_copy(update=without_files)
        assert {f"{network.model}/1/{file}" for file in ("model.safetensors", "network.json")} < {
            *network.files
        }


def test_what_is_written_is_checked_without_tf32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU torch rounds the convolutions of float32 by default, by more than is allowed."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    checkpoint = open_checkpoint(CHECKPOINTS / "sd15")
    network = ClipTextEncoder(checkpoint.json("text_encoder/config.json"))
    torch_target.TorchTarget("fp32").write(network, checkpoint, tmp_path, lambda stage: None)
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("role", ROLES)
def test_config(torch_repository: Path, role: str) -> None:
    config: Any = model_config_pb2.ModelConfig()
    text = (torch_repository / f"sd15_{role}" / "config.pbtxt").read_text()
    text_format.Parse(text, config)
    assert config.backend == "torch"
    (group,) = config.instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_AUTO
    assert group.count == 1
    assert not group.gpus  # a server without a GPU refuses a model that names one
    assert config.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value == "no"


@pytest.mark.parametrize(("name", "role"), [("sdxl", "text_encoder_2"), ("sdxl", "unet")])
@pytest.mark.parametrize("precision", DTYPES)
def test_a_network_is_read_as_it_was_written(
    tmp_path: Path, name: str, role: str, precision: Precision
) -> None:
    network, module = opened(name, role)
    expected = references(network, module, network.cases()[-1:])
    runnable = lowered(network, module, precision, ())
    write_network(network, module, tmp_path, precision=precision)
    read = read_network(tmp_path, CPU)
    assert (type(read.network), read.precision) == (type(network), precision)
    assert read.network.inputs == network.inputs
    (reference,) = expected
    with torch.inference_mode():
        ours = first(read.module(*reference.tensors))
        torch.testing.assert_close(ours, first(runnable(*reference.tensors)), rtol=0, atol=0)
    assert ours.dtype == torch.float32
    assert error(ours, reference.outputs[0]) <= TOLERANCES[precision].error
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {
        DTYPES[precision]
    }


def test_blocks_that_overflow_stay_float32_when_read_again(tmp_path: Path) -> None:
    network, module = opened("sdxl", "vae_decoder")
    block = module.model.decoder.mid_block.resnets[0]
    with torch.no_grad():
        block.conv1.weight *= 1e5  # the norm that follows takes it back
    (reference,) = references(network, module, network.cases()[-1:])
    float32 = overflowing(network, module, "fp16", [reference.tensors])
    assert float32 == ("model.decoder.mid_block.resnets.0",)
    lowered(network, module, "fp16", float32)
    write_network(network, module, tmp_path, precision="fp16", float32=float32)
    assert json.loads((tmp_path / "network.json").read_text())["float32"] == [*float32]
    read = read_network(tmp_path, CPU).module
    kept = read.get_submodule(f"module.{float32[0]}").parameters()
    assert {each.dtype for each in kept} == {torch.float32}
    with torch.inference_mode():
        assert error(read(*reference.tensors), reference.outputs[0]) <= TOLERANCES["fp16"].error


@pytest.mark.parametrize(
    ("network", "own", "other"),
    [(VaeEncoder, "encoder", "decoder"), (VaeDecoder, "decoder", "encoder")],
)
def test_half_a_vae_is_loaded(network: type[NetworkExport], own: str, other: str) -> None:
    checkpoint = open_checkpoint(CHECKPOINTS / "sd15")
    config = checkpoint.json("vae/config.json")
    parts = {name.split(".")[1] for name in load_network(network(config), checkpoint).state_dict()}
    assert own in parts
    assert not {other, f"{other}_conv"} & parts


def test_skeletons_have_no_values() -> None:
    config = open_checkpoint(CHECKPOINTS / "sd15").json("unet/config.json")
    assert all(value.is_meta for value in Unet(config).skeleton().state_dict().values())


def test_an_unknown_network_is_named(tmp_path: Path) -> None:
    file = NetworkFile(network="os", arguments={}, config={}, precision="fp32")
    (tmp_path / "network.json").write_text(file.model_dump_json())
    with pytest.raises(ValueError, match=r"network: 'os'; known: ClipTextEncoder, "):
        read_network(tmp_path, CPU)


def test_weights_that_differ_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(folder: Path, device: torch.device) -> stored.StoredNetwork:
        read = read_network(folder, device)
        with torch.no_grad():
            next(read.module.parameters()).mul_(1.01)
        return read

    monkeypatch.setattr(torch_target, "read_network", wrong)
    with pytest.raises(VerificationError, match=r"text_encoder at batch=\d.*differs from torch"):
        build(CHECKPOINTS / "sd15", "sd15", tmp_path / "repository", TargetOptions("torch"))
    assert not list((tmp_path / "repository").glob("sd15*"))


def test_limits_follow_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = Unet(open_checkpoint(CHECKPOINTS / "sd15").json("unet/config.json"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = open_target(TargetOptions("torch"))
    assert on_cpu.memory_gb is None
    assert (on_cpu.built_with(), unet.limits(on_cpu.memory_gb).boxes) == ({}, ())
    given = open_target(TargetOptions("torch", precision="fp16", memory_gb=24))
    assert (given.precision, given.built_with()) == ("fp16", {"memory_gb": "24"})
    assert [box.rows for box in unet.limits(given.memory_gb).boxes] == [16, 4, 1]


@pytest.mark.parametrize(
    "options", [TargetOptions("torch", precision="bf16"), TargetOptions("torch", memory_gb=8)]
)
def test_another_choice_is_another_build(
    torch_repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: TargetOptions,
) -> None:
    copy = Path(shutil.copytree(torch_repository, tmp_path / "repository"))
    begun: list[str] = []

    def begin(*args: object) -> None:
        begun.append("build")
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "_build_models", begin)
    controlnets = {CONTROLNET: CHECKPOINTS / CONTROLNET}
    build(CHECKPOINTS / "sd15", "sd15", copy, TargetOptions("torch"), controlnets)
    assert not begun
    with pytest.raises(KeyboardInterrupt):
        build(CHECKPOINTS / "sd15", "sd15", copy, options, controlnets)
    assert begun
