"""trtexec's command line, and what becomes of its failures."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from build_engines.errors import BuildError, RefitError
from build_engines.tensorrt import Job, find_builder
from build_engines.tensorrt.api import ApiBuilder
from build_engines.tensorrt.trtexec import TrtexecBuilder

# The options of trtexec's own help text, TensorRT 10.x; --stronglyTyped does nothing in 11.x, where
# every network is (NVIDIA's guide for migrating trtexec from 10.x to 11.x).
KNOWN = {
    *("--onnx", "--saveEngine", "--stronglyTyped", "--skipInference", "--profile", "--minShapes"),
    *("--optShapes", "--maxShapes", "--memPoolSize", "--builderOptimizationLevel", "--refit"),
    *("--timingCacheFile", "--allowWeightStreaming", "--noTF32"),
}
PROFILES = [
    {"sample": ((1, 4, 8, 8), (8, 4, 64, 64), (16, 4, 96, 96)), "timestep": ((1, 1),) * 3},
    {"sample": ((1, 4, 8, 8), (1, 4, 96, 96), (2, 4, 256, 256)), "timestep": ((1, 1),) * 3},
]
BANNER = "&&&& RUNNING TensorRT.trtexec [TensorRT v101303] [b9] # trtexec --help"


@pytest.fixture(autouse=True)
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the Python package is not installed."""
    for package in ("tensorrt", "tensorrt_bindings"):
        monkeypatch.setitem(sys.modules, package, None)


def program(folder: Path, script: str) -> Path:
    path = folder / "trtexec"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def job(folder: Path, **options: object) -> Job:
    given = {"graph": folder / "model.onnx", "plan": folder / "model.plan", "profiles": PROFILES}
    return Job(**{**given, "workspace_bytes": 6 << 30, **options})  # type: ignore[arg-type]


def test_the_command() -> None:
    folder = Path("/m")
    wanted = job(folder, refit=True, weight_streaming=True, tf32=False, timing_cache=Path("/c/t"))
    assert TrtexecBuilder(Path("/bin/trtexec")).command(wanted) == [
        "/bin/trtexec",
        "--onnx=/m/model.onnx",
        "--saveEngine=/m/model.plan",
        "--stronglyTyped",
        "--skipInference",
        "--profile=0",
        "--minShapes=sample:1x4x8x8,timestep:1x1",
        "--optShapes=sample:8x4x64x64,timestep:1x1",
        "--maxShapes=sample:16x4x96x96,timestep:1x1",
        "--profile=1",
        "--minShapes=sample:1x4x8x8,timestep:1x1",
        "--optShapes=sample:1x4x96x96,timestep:1x1",
        "--maxShapes=sample:2x4x256x256,timestep:1x1",
        "--memPoolSize=workspace:6144",
        "--builderOptimizationLevel=3",
        "--timingCacheFile=/c/t",
        "--refit",
        "--allowWeightStreaming",
        "--noTF32",
    ]


def test_every_option_is_one_of_its_own() -> None:
    wanted = job(Path("/m"), refit=True, weight_streaming=True, tf32=False, timing_cache=Path("t"))
    command = TrtexecBuilder(Path("trtexec")).command(wanted)
    assert {argument.partition("=")[0] for argument in command[1:]} == KNOWN


def test_it_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, f"echo '{BANNER}'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_builder().version == "10.13.3"


def test_a_version_that_is_not_supported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "echo '[TensorRT v8601]'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(BuildError, match=r"TensorRT 8\.6\.1; allowed: 10\.x and 11\.x"):
        find_builder()


def test_no_tensorrt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BuildError, match=r"no TensorRT: no Python package \(.*tensorrt"):
        find_builder()


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt_bindings"])
def test_the_python_package_comes_first(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Triton's image has the libraries, to which the bindings are added alone."""
    monkeypatch.setitem(sys.modules, package, types.SimpleNamespace(__version__="11.2.1.2"))
    builder = find_builder()
    assert isinstance(builder, ApiBuilder)
    assert builder.version == "11.2.1"


def test_a_build(tmp_path: Path) -> None:
    made = 'for a; do case "$a" in --saveEngine=*) echo plan > "${a#*=}";; esac; done'
    wanted = job(tmp_path, timing_cache=tmp_path / "kept" / "timings")
    TrtexecBuilder(program(tmp_path, made)).build(wanted)
    assert wanted.plan.read_text() == "plan\n"
    assert (tmp_path / "kept").is_dir()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo half > {plan}; echo '[E] no kernel fits'; exit 1", "exit code 1:\n.*no kernel fits"),
        ("exit 0", "wrote no engine"),
    ],
)
def test_a_failure_leaves_no_file(tmp_path: Path, script: str, message: str) -> None:
    wanted = job(tmp_path)
    builder = TrtexecBuilder(program(tmp_path, script.format(plan=wanted.plan)))
    with pytest.raises(BuildError, match=message):
        builder.build(wanted)
    assert not wanted.plan.exists()


def test_it_does_not_refit(tmp_path: Path) -> None:
    with pytest.raises(RefitError, match="takes the Python package"):
        TrtexecBuilder(tmp_path).refit(tmp_path, tmp_path, tmp_path)
