"""Checks that pipelines run here: engines are tied to one TensorRT and one kind of GPU, bfloat16 in
OpenVINO to a CPU that has it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipelines.cpu import CpuError, require_bf16
from pipelines.descriptor import EngineSpec, PipelineDescriptor, load_all
from pipelines.gpu import GpuError, find_gpus
from pipelines.libnvinfer import LibraryError, linked_version
from serving.errors import EngineError
from serving.installation import Installation, library_path

_BACKEND = Path("tensorrt") / "libtriton_tensorrt.so"


def check_engines(repositories: Sequence[Path], installation: Installation) -> None:
    """Compares what the pipelines need with this machine's TensorRT, GPU and CPU.

    Raises:
        EngineError: a pipeline cannot run; the message has the remedy.
    """
    for name, (descriptor, folder) in load_all(repositories).items():
        if descriptor.engine is not None:
            command = build_command(descriptor, folder)
            _check(_needs(name, descriptor.engine), descriptor.engine, installation, command)
        if (descriptor.target, descriptor.precision) == ("openvino", "bf16"):
            _check_bf16(name)


def build_command(descriptor: PipelineDescriptor, folder: Path) -> str:
    """What builds the pipeline again."""
    return (
        f"python -m build_engines CHECKPOINT --name {descriptor.name} "
        f"--target {descriptor.target} --repository {folder}"
    )


def _check_bf16(name: str) -> None:
    try:
        require_bf16()
    except CpuError as error:
        raise EngineError(
            f"pipeline {name!r}: {error}. Build it with --precision fp32, or with --target onnx"
        ) from error


def _check(needs: str, engine: EngineSpec, installation: Installation, command: str) -> None:
    tensorrt = _tensorrt(needs, installation)
    try:
        gpus = find_gpus()
    except GpuError as error:
        raise EngineError(f"{needs}; {error}") from error
    capabilities = {gpu.compute_capability for gpu in gpus}
    if (tensorrt, capabilities) != (engine.tensorrt, {engine.compute_capability}):
        here = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in gpus)
        raise EngineError(
            f"{needs}; here are TensorRT {tensorrt} and {here}. Build it again on this machine: "
            + command
        )


def _tensorrt(needs: str, installation: Installation) -> str:
    """The version that the server's backend is linked with."""
    backend = installation.backends / _BACKEND
    if not backend.is_file():
        raise EngineError(
            f"{needs}; this tritonserver has no TensorRT backend ({backend}). Run it "
            "in NVIDIA's Triton image, or build the pipeline with --target onnx"
        )
    environment = dict(os.environ, LD_LIBRARY_PATH=library_path(installation))
    try:
        return linked_version(backend, environment)
    except LibraryError as error:
        raise EngineError(f"{needs}; it cannot be loaded here: {error}") from error


def _needs(name: str, engine: EngineSpec) -> str:
    return (
        f"pipeline {name!r}: its engines were built with TensorRT {engine.tensorrt} "
        f"for {engine.gpu} ({engine.compute_capability})"
    )
