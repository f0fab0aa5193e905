"""Whole builds: the descriptor, unchanged input, failures that leave the old build alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from build_engines import TargetOptions, VerificationError, build, builder, graph
from build_engines.errors import BuildError
from build_engines.export import export_onnx
from build_engines.fingerprint import build_versions
from networks import NetworkExport
from pipelines.descriptor import load_all
from tests.build_engines.conftest import snapshot
from tests.conftest import CHECKPOINTS, CONTROLNET

SD15 = CHECKPOINTS / "sd15"


def touch(checkpoint: Path) -> None:
    """Changes a file of the checkpoint without changing its meaning."""
    path = checkpoint / "unet" / "config.json"
    path.write_text(path.read_text() + "\n")


def refuse_to_build(*args: object) -> None:
    pytest.fail("an unchanged pipeline was built again")


def test_the_descriptor_names_every_file(repository: Path) -> None:
    descriptor, folder = load_all([repository])["sd15"]
    assert folder == repository
    listed: dict[str, str] = {}
    for network in descriptor.all_networks:
        listed |= network.files
    on_disk = snapshot(repository)
    models = {path: data for path, data in on_disk.items() if path.startswith("sd15_")}
    assert {path.split("/")[0] for path in models} == set(descriptor.models)
    assert listed == {path: hashlib.sha256(data).hexdigest() for path, data in models.items()}
    source = snapshot(SD15)
    for path, data in snapshot(CHECKPOINTS / CONTROLNET).items():
        source[f"controlnets/{CONTROLNET}/{path}"] = data
    assert descriptor.source == {
        path: hashlib.sha256(source[path]).hexdigest() for path in descriptor.source
    }
    assert {"unet/config.json", "tokenizer/merges.txt"} < descriptor.source.keys()
    assert f"controlnets/{CONTROLNET}/config.json" in descriptor.source


def test_unchanged_input_is_not_built_again(
    built: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(builder, "_build_models", refuse_to_build)
    before = snapshot(built)
    with caplog.at_level("INFO"):
        descriptor = build(SD15, "sd15", built)
    assert descriptor.name == "sd15"
    assert "unchanged" in caplog.text
    assert snapshot(built) == before


@pytest.mark.parametrize("change", ["checkpoint", "library", "model", "stray file", "lost file"])
def test_a_change_is_noticed(
    built: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    if change == "checkpoint":
        touch(checkpoint)
    elif change == "library":
        versions = {**build_versions(), "torch": "0.0"}
        monkeypatch.setattr(builder, "build_versions", lambda: versions)
    elif change == "model":
        with (built / "sd15_unet" / "1" / "model.onnx.data").open("r+b") as file:
            file.write(b"\xff")
    elif change == "stray file":  # with which the server would not start
        (built / "sd15_unet" / "1" / "notes.txt").touch()
    else:
        (built / "sd15_text_encoder" / "tokenizer.json").unlink()
    started: list[str] = []

    def start(*args: object) -> None:
        started.append(change)
        raise BuildError("stopped by the test")

    monkeypatch.setattr(builder, "_build_models", start)
    with pytest.raises(BuildError, match="stopped by the test"):
        build(checkpoint, "sd15", built)
    assert started == [change]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_a_stopped_build_leaves_the_old_one(
    built: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    touch(checkpoint)
    before = snapshot(built)

    def stop_at_the_unet(network: NetworkExport, module: nn.Module, *rest: Any) -> Path:
        if network.role == "unet":
            raise kind
        return export_onnx(network, module, *rest)

    monkeypatch.setattr(graph, "export_onnx", stop_at_the_unet)
    with pytest.raises(kind):
        build(checkpoint, "sd15", built)
    assert snapshot(built) == before
    assert build(SD15, "sd15", built).name == "sd15"


def test_a_wrong_export_is_refused(
    built: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(checkpoint)
    before = snapshot(built)

    def wrong(network: NetworkExport, module: nn.Module, *rest: Any) -> Path:
        with torch.no_grad():
            next(iter(module.parameters())).mul_(1.01)
        return export_onnx(network, module, *rest)

    monkeypatch.setattr(graph, "export_onnx", wrong)
    with pytest.raises(VerificationError, match=r"text_encoder at batch=\d.*differs from torch"):
        build(checkpoint, "sd15", built)
    assert snapshot(built) == before


def test_an_export_that_does_not_run_is_refused(
    built: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(checkpoint)
    before = snapshot(built)

    def cut_off(network: NetworkExport, module: nn.Module, *rest: Any) -> Path:
        path = export_onnx(network, module, *rest)
        path.write_bytes(path.read_bytes()[:1000])
        return path

    monkeypatch.setattr(graph, "export_onnx", cut_off)
    with pytest.raises(VerificationError, match="text_encoder: onnxruntime cannot run the export"):
        build(checkpoint, "sd15", built)
    assert snapshot(built) == before


def test_changed_weights_are_built_anew(built: Path, checkpoint: Path) -> None:
    path = checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["conv_out.bias"] += 1
    save_file(state, path)
    before = snapshot(built)
    build(checkpoint, "sd15", built)
    after = snapshot(built)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"sd15.pipeline.json", "sd15_unet/1/model.onnx.data"}
    weights = [np.frombuffer(s["sd15_unet/1/model.onnx.data"], np.float32) for s in (before, after)]
    assert np.count_nonzero(weights[0] != weights[1]) == 4


def test_code_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()
    with pytest.raises(BuildError, match="is a Python package"):
        build(SD15, "sd15", tmp_path)


def test_a_wrong_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"name: '\.\./up'"):
        build(SD15, "../up", tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cuda"}, "target: 'cuda'; allowed: onnx, openvino, tensorrt, torch"),
        ({"precision": "fp8"}, "precision: 'fp8'; allowed: fp32, fp16, bf16"),
        ({"precision": "bf16"}, "precision: bf16 with target onnx.*; allowed: fp32, fp16"),
        (
            {"name": "openvino", "precision": "fp16"},
            "precision: fp16 with target openvino.*; allowed: fp32, bf16",
        ),
        ({"memory_gb": 0.0}, "memory: 0.0; allowed: more than 0"),
        ({"optimization_level": 6}, "optimization_level: 6; allowed: 0 to 5"),
    ],
)
def test_wrong_target_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        TargetOptions(**options)
