"""Whole builds for TensorRT: real graphs, and an engine builder that only pretends."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from build_engines import TargetOptions, build
from build_engines.errors import BuildError, RefitError
from build_engines.publish import publish, staging
from build_engines.targets import open_target, tensorrt
from build_engines.tensorrt import Job
from build_engines.tensorrt.structure import read_structure
from pipelines.descriptor import EngineSpec, PipelineDescriptor
from tests.build_engines.conftest import copy_checkpoint, snapshot
from tests.tensorrt.graphs import PARTS

ROLES = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


class PretendedBuilder:
    """Writes plans that say how they were made."""

    def __init__(self) -> None:
        self.version = "11.2.1"
        self.failure: BaseException | None = None
        self.refuses = False
        self.jobs: list[Job] = []

    def build(self, job: Job) -> None:
        assert read_structure(job.graph).weights
        if self.failure and self.jobs:
            job.plan.write_text("half")
            raise self.failure
        self.jobs.append(job)
        job.plan.write_text("built")

    def refit(self, old: Path, graph: Path, plan: Path) -> None:
        assert old.read_text() in ("built", "refitted")
        assert ".building" not in str(old)
        if self.refuses:
            raise RefitError("1 weights are missing")
        plan.write_text("refitted")


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretendedBuilder:
    """The machine's: it has an A10, and this TensorRT."""
    gpu(tmp_path, monkeypatch, "NVIDIA A10, 8.6, 23028, 580.95.05")
    made = PretendedBuilder()
    monkeypatch.setattr(tensorrt, "find_builder", lambda: made)
    return made


def gpu(folder: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\necho '{line}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """One without ControlNets, that a test may change."""
    return copy_checkpoint("sd15-v", tmp_path / "checkpoint")


def make(checkpoint: Path, **options: Any) -> PipelineDescriptor:
    target = TargetOptions(name="tensorrt", **options)
    return build(checkpoint, "base", checkpoint.parent / "repository", target)


def plans(checkpoint: Path) -> list[str]:
    repository = checkpoint.parent / "repository"
    return [(repository / f"base_{role}" / "1" / "model.plan").read_text() for role in ROLES]


def test_only_the_plan_remains(builder: PretendedBuilder, checkpoint: Path) -> None:
    descriptor = make(checkpoint, precision="fp16")
    assert (descriptor.target, descriptor.precision) == ("tensorrt", "fp16")
    assert descriptor.engine == EngineSpec(
        tensorrt="11.2.1", gpu="NVIDIA A10", compute_capability="8.6"
    )
    for role in ROLES:
        version = checkpoint.parent / "repository" / f"base_{role}" / "1"
        assert [path.name for path in version.iterdir()] == ["model.plan"]
        assert f"base_{role}/1/model.plan" in descriptor.networks[role].files  # type: ignore[index]
        assert descriptor.networks[role].boxes or role == "text_encoder"  # type: ignore[index]
    assert plans(checkpoint) == ["built"] * 4
    unet = next(job for job in builder.jobs if "timestep" in job.profiles[0])
    assert len(unet.profiles) == 3
    assert unet.workspace_bytes is None

    before = snapshot(checkpoint.parent / "repository")
    builder.jobs.clear()
    make(checkpoint, precision="fp16")
    assert builder.jobs == []  # unchanged
    builder.version = "11.4.0"
    builder.jobs.append(unet)
    builder.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        make(checkpoint, precision="fp16")
    assert snapshot(checkpoint.parent / "repository") == before


def write(name: str, repository: Path, **options: Any) -> Path:
    """Makes a network's engine where an older build of it may lie; returns the version folder."""
    part = PARTS[name]
    target = open_target(TargetOptions(name="tensorrt", **options))
    model = part.network.model_name("base")
    stages: list[str] = []
    with staging(repository, "base") as folder:
        version = folder / model / "1"
        version.mkdir(parents=True)
        target.write(part.network, part.checkpoint, version, stages.append)
        (folder / "d").write_text("")
        publish(folder, repository, [model], "d")
    assert len(stages) == target.stages
    return repository / model / "1"


def test_another_checkpoint_of_the_shape_is_refitted(
    builder: PretendedBuilder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = write("sd15-vae_decoder", tmp_path, refit=True)
    assert {path.name for path in version.iterdir()} == {"model.plan", "engine.json"}
    assert json.loads((version / "engine.json").read_text())["built_with"]["tensorrt"] == "11.2.1"
    for _ in range(2):
        write("sdxl-vae_decoder", tmp_path, refit=True)
        assert (version / "model.plan").read_text() == "refitted"
    builder.refuses = True
    with caplog.at_level(logging.WARNING):
        write("sd15-vae_decoder", tmp_path, refit=True)
    assert "built anew, as it cannot be refitted: 1 weights are missing" in caplog.text
    assert (version / "model.plan").read_text() == "built"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sdxl-vae_decoder", {"optimization_level": 5}),
        ("sdxl-vae_decoder", {"memory_gb": 80}),
        ("sdxl-vae_decoder", {"precision": "fp32"}),
        ("sdxl-vae_decoder", {"refit": False}),
    ],
)
def test_other_options_are_built_anew(
    builder: PretendedBuilder, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    write("sd15-vae_decoder", tmp_path, refit=True)
    version = write(name, tmp_path, **{"refit": True, **options})
    assert (version / "model.plan").read_text() == "built"


def test_another_structure_is_built_anew(builder: PretendedBuilder, tmp_path: Path) -> None:
    write("sd15-v-unet", tmp_path, refit=True)
    version = write("sd15-inpaint-unet", tmp_path, refit=True)
    assert (version / "model.plan").read_text() == "built"


def test_another_tensorrt_is_built_anew(builder: PretendedBuilder, tmp_path: Path) -> None:
    write("sd15-vae_decoder", tmp_path, refit=True)
    builder.version = "11.4.0"
    version = write("sdxl-vae_decoder", tmp_path, refit=True)
    assert (version / "model.plan").read_text() == "built"


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ("", {}, "nvidia-smi lists none"),
        ("NVIDIA A10, 8.6, [N/A], 580", {}, r"nvidia-smi says .*memory\.total"),
        ("Tesla T4, 7.5, 15360, 580", {"precision": "bf16"}, r"bf16 needs .* 8\.0; Tesla T4 has 7"),
    ],
)
def test_a_gpu_that_will_not_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    options: dict[str, Any],
    message: str,
) -> None:
    gpu(tmp_path, monkeypatch, line)
    with pytest.raises(BuildError, match=message):
        open_target(TargetOptions(name="tensorrt", **options))


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BuildError, match="no NVIDIA GPU: nvidia-smi is not on PATH"):
        open_target(TargetOptions(name="tensorrt"))


def test_the_memory_can_be_another(builder: PretendedBuilder) -> None:
    assert open_target(TargetOptions(name="tensorrt", memory_gb=8)).memory_gb == 8
    assert open_target(TargetOptions(name="tensorrt")).memory_gb == pytest.approx(24.1, abs=0.1)


def test_what_weight_streaming_does_is_told(
    builder: PretendedBuilder, caplog: pytest.LogCaptureFixture
) -> None:
    open_target(TargetOptions(name="tensorrt", weight_streaming=True))
    assert "all weights stay on the GPU" in caplog.text
