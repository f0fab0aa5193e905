"""Whole builds for TensorRT: real graphs, and an engine builder that only pretends."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engines import TargetOptions, build
from build_engines.errors import BuildError, RefitError, VerificationError
from build_engines.publish import publish, staging
from build_engines.targets import open_target, tensorrt
from build_engines.tensorrt import Job
from build_engines.tensorrt.structure import read_structure
from build_engines.verify import TOLERANCES, InputArrays, OutputArrays, Run, references
from build_engines.weights import load_network
from pipelines.descriptor import EngineSpec, PipelineDescriptor
from pipelines.reference import REFERENCE_FILE, read_reference, relative_error
from runners.onnx_session import open_session
from tests.build_engines.conftest import copy_checkpoint, snapshot
from tests.tensorrt.graphs import PARTS

ROLES = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


class PretendedBuilder:
    """Writes plans that say how they were made; what they compute is the graph's in onnxruntime."""

    def __init__(self) -> None:
        self.version = "11.2.1"
        self.failure: BaseException | None = None
        self.refuses = False
        self.jobs: list[Job] = []
        self.has_cuda = False
        self.wrong: set[str] = set()
        """Plans that compute something else."""
        self._graph = Path()

    def build(self, job: Job) -> None:
        assert read_structure(job.graph).weights
        if self.failure and self.jobs:
            job.plan.write_text("half")
            raise self.failure
        self.jobs.append(job)
        self._graph = job.graph
        job.plan.write_text("built")

    def refit(self, old: Path, graph: Path, plan: Path) -> None:
        assert old.read_text() in ("built", "refitted")
        assert ".building" not in str(old)
        if self.refuses:
            raise RefitError("1 weights are missing")
        self._graph = graph
        plan.write_text("refitted")

    def load(self, plan: Path, outputs: Sequence[str]) -> Run | None:
        session = open_session(self._graph)
        factor = np.float32(1.5 if plan.read_text() in self.wrong else 1)

        def run(inputs: InputArrays) -> OutputArrays:
            found = session.run(dict(inputs))
            return [found[name] * factor for name in outputs]

        return run if self.has_cuda else None


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
        assert {path.name for path in version.iterdir()} == {"model.plan", REFERENCE_FILE}
        files = descriptor.networks[role].files  # type: ignore[index]
        assert files.keys() >= {f"base_{role}/1/model.plan", f"base_{role}/1/{REFERENCE_FILE}"}
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
    builder.has_cuda = True
    version = write("sd15-vae_decoder", tmp_path, refit=True)
    assert {path.name for path in version.iterdir()} == {
        "model.plan",
        "engine.json",
        REFERENCE_FILE,
    }
    assert json.loads((version / "engine.json").read_text())["built_with"]["tensorrt"] == "11.2.1"
    for _ in range(2):
        write("sdxl-vae_decoder", tmp_path, refit=True)
        assert (version / "model.plan").read_text() == "refitted"
    builder.refuses = True
    with caplog.at_level(logging.WARNING):
        write("sd15-vae_decoder", tmp_path, refit=True)
    assert "built anew, as it cannot be refitted: 1 weights are missing" in caplog.text
    assert (version / "model.plan").read_text() == "built"


def test_an_engine_that_cannot_be_run_here_is_left_to_the_server(
    builder: PretendedBuilder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = write("sd15-text_encoder", tmp_path)
    assert "the server compares it with torch when it starts" in caplog.text
    part = PARTS["sd15-text_encoder"]
    case = part.network.cases()[:1]
    (first,) = references(part.network, load_network(part.network, part.checkpoint), case)
    found = read_reference(version / REFERENCE_FILE)
    assert found.tolerance == TOLERANCES["fp16"]
    np.testing.assert_array_equal(found.inputs["input_ids"], first.inputs["input_ids"])
    output = found.outputs["hidden_state"]
    assert relative_error(output, first.outputs[0], TOLERANCES["fp32"]) < 1e-6


def test_an_engine_that_differs_from_torch_is_refused(
    builder: PretendedBuilder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    builder.has_cuda = True
    version = write("sd15-text_encoder", tmp_path)
    assert "when it starts" not in caplog.text
    before = snapshot(tmp_path)
    builder.wrong = {"built"}
    with pytest.raises(VerificationError, match=r"text_encoder at batch=1: .*differs from torch"):
        write("sd15-text_encoder", tmp_path, optimization_level=4)
    assert snapshot(tmp_path) == before
    assert (version / "model.plan").read_text() == "built"


def test_a_refitted_engine_that_differs_is_built_anew(
    builder: PretendedBuilder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    builder.has_cuda = True
    builder.wrong = {"refitted"}
    for _ in range(2):
        version = write("sd15-text_encoder", tmp_path, refit=True)
        assert (version / "model.plan").read_text() == "built"
    assert re.search("built anew, as it cannot be refitted: .* differs from torch", caplog.text)


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
