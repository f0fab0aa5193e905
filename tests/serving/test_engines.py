"""Compiled engines are refused where they cannot run: real libraries, found by the real loader."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.cpu import require_bf16
from pipelines.descriptor import EngineSpec, TargetName
from pipelines.gpu import Gpu, GpuError, find_gpus
from pipelines.libnvinfer import LibraryError, linked_version, version_text
from serving import engines
from serving.engines import check_engines
from serving.errors import EngineError
from serving.installation import Installation
from tests.conftest import CHECKPOINTS
from tests.descriptors import bare_pipeline

A10 = "NVIDIA A10, 8.6, 23028, 580.95.05"
L4 = "NVIDIA L4, 8.9, 23034, 580.95.05"

needs_cc = pytest.mark.skipif(
    shutil.which("cc") is None, reason="needs a C compiler (cc) for a stand-in of libnvinfer"
)


def gpus(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    body = "\n".join(f"echo '{line}'" for line in lines) or "echo 'No devices were found'; exit 6"
    program.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\n{body}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


def cc(*arguments: str) -> None:
    subprocess.run(["cc", "-shared", "-fPIC", *arguments], check=True, capture_output=True)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """A tritonserver's folder whose TensorRT backend is linked with a libnvinfer 11.2.1 of the
    caller's LD_LIBRARY_PATH."""
    root, libraries = tmp_path / "tritonserver", tmp_path / "libraries"
    (root / "backends" / "tensorrt").mkdir(parents=True)
    libraries.mkdir()
    (root / "bin").mkdir()
    set_version(libraries, 110201)
    empty = tmp_path / "empty.c"
    empty.write_text(
        "int getInferLibVersion(void);\nint used(void) { return getInferLibVersion(); }"
    )
    backend = root / "backends" / "tensorrt" / "libtriton_tensorrt.so"
    cc(str(empty), "-o", str(backend), str(libraries / "libnvinfer.so.11"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))
    gpus(tmp_path, monkeypatch, A10)
    return Installation(root / "bin" / "tritonserver", (), root / "backends")


def set_version(libraries: Path, number: int) -> None:
    source = libraries / "version.c"
    source.write_text(f"int getInferLibVersion(void) {{ return {number}; }}")
    library = libraries / "libnvinfer.so.11"
    cc(str(source), "-o", str(library), f"-Wl,-soname,{library.name}")


@pytest.fixture
def pipelines(tmp_path: Path) -> Path:
    """A folder with the descriptor of a pipeline that was built for an A10."""
    engine = EngineSpec(tensorrt="11.2.1", gpu="NVIDIA A10", compute_capability="8.6")
    return write_descriptor(tmp_path / "pipelines", "tensorrt", engine)


def write_descriptor(folder: Path, target: TargetName, engine: EngineSpec | None) -> Path:
    descriptor = bare_pipeline(target=target, engine=engine)
    folder.mkdir()
    (folder / "base.pipeline.json").write_text(descriptor.model_dump_json())
    return folder


@needs_cc
def test_engines_of_this_machine_are_served(pipelines: Path, server: Installation) -> None:
    check_engines([pipelines], server)


@needs_cc
def test_another_tensorrt(pipelines: Path, server: Installation, tmp_path: Path) -> None:
    set_version(tmp_path / "libraries", 110400)
    with pytest.raises(EngineError) as refused:
        check_engines([pipelines], server)
    assert str(refused.value) == (
        "pipeline 'base': its engines were built with TensorRT 11.2.1 for NVIDIA A10 (8.6); "
        "here are TensorRT 11.4.0 and NVIDIA A10 (8.6). Build it again on this machine: "
        "python -m build_engines CHECKPOINT --name base --target tensorrt "
        f"--repository {pipelines}"
    )


@needs_cc
@pytest.mark.parametrize("here", [(L4,), (A10, L4)])
def test_another_gpu(
    pipelines: Path,
    server: Installation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: tuple[str, ...],
) -> None:
    gpus(tmp_path, monkeypatch, *here)
    with pytest.raises(EngineError, match=r"here are TensorRT 11\.2\.1 and .*NVIDIA L4 \(8\.9\)"):
        check_engines([pipelines], server)


@needs_cc
def test_no_gpu(
    pipelines: Path, server: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(tmp_path, monkeypatch)
    with pytest.raises(EngineError, match=r"'base': .* nvidia-smi failed: No devices were found"):
        check_engines([pipelines], server)


@needs_cc
def test_no_libnvinfer(
    pipelines: Path, server: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nonexistent")
    with pytest.raises(EngineError, match="the dynamic loader finds no libnvinfer"):
        check_engines([pipelines], server)


def test_a_server_without_the_backend(pipelines: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no TensorRT backend .*--target onnx"):
        check_engines(
            [pipelines], Installation(tmp_path / "tritonserver", (), tmp_path / "backends")
        )


def test_pipelines_without_engines_need_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    folder = write_descriptor(tmp_path / "onnx", "onnx", None)
    check_engines([folder], Installation(tmp_path / "tritonserver", (), tmp_path / "backends"))


@pytest.mark.parametrize("flags", [["avx2", "avx512_bf16"], ["avx2", "avx512f"]])
def test_bf16_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> None:
    monkeypatch.setattr(engines, "require_bf16", lambda: require_bf16(frozenset(flags)))
    descriptor = bare_pipeline(target="openvino", precision="bf16")
    (tmp_path / "base.pipeline.json").write_text(descriptor.model_dump_json())
    here = Installation(tmp_path / "tritonserver", (), tmp_path / "backends")
    if "avx512_bf16" in flags:
        check_engines([tmp_path], here)
        return
    message = r"pipeline 'base': bf16 needs .*has avx2, avx512f\. Build it with --precision fp32"
    with pytest.raises(EngineError, match=message):
        check_engines([tmp_path], here)


def test_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(tmp_path, monkeypatch, A10, L4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second = find_gpus()
    assert first == Gpu("NVIDIA A10", "8.6", 23028 * 2**20 / 1e9, "580.95.05")
    assert second.compute_capability == "8.9"
    assert "--id" not in (tmp_path / "asked").read_text()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    find_gpus()
    assert "--id=1" in (tmp_path / "asked").read_text()


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(GpuError, match="not on PATH"):
        find_gpus()


def test_version_numbers() -> None:
    assert version_text(110215) == "11.2.15"


def test_a_file_that_is_no_program() -> None:
    with pytest.raises(LibraryError):
        linked_version(CHECKPOINTS / "sd15" / "model_index.json")
