"""Whether compiled engines run here: they are tied to one TensorRT and one kind of GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipelines.descriptor import EngineSpec, PipelineDescriptor, load_all
from pipelines.gpu import GpuError, find_gpus
from pipelines.libnvinfer import LibraryError, linked_version
from serving.errors import EngineError
from serving.installation import Installation, library_path

_BACKEND = Path("backends") / "tensorrt" / "libtriton_tensorrt.so"


def check_engines(repositories: Sequence[Path], installation: Installation) -> None:
    """Compares what the pipelines' engines were built with and for with what is here.

    Raises:
        EngineError: one of them cannot run; the message says what to do.
    """
    compiled = [each for each, _ in load_all(repositories).values() if each.engine is not None]
    if not compiled:
        return
    tensorrt = _tensorrt(compiled[0], installation)
    try:
        gpus = find_gpus()
    except GpuError as error:
        raise EngineError(f"{_needs(compiled[0])}: {error}") from error
    for descriptor in compiled:
        engine = descriptor.engine
        assert engine is not None
        if any(not _runs(engine, tensorrt, gpu.compute_capability) for gpu in gpus):
            here = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in gpus)
            raise EngineError(
                f"{_needs(descriptor)}; here are {tensorrt} and {here}. Build it again on this "
                "machine: python -m build_engines CHECKPOINT "
                f"--name {descriptor.name} --target tensorrt --repository DIR"
            )


def _tensorrt(descriptor: PipelineDescriptor, installation: Installation) -> str:
    """The version that the server's backend is given by the dynamic loader."""
    backend = installation.binary.parent.parent / _BACKEND
    if not backend.is_file():
        raise EngineError(
            f"{_needs(descriptor)}; this tritonserver has no TensorRT backend ({backend}). Run it "
            "in NVIDIA's Triton image, or build the pipeline with --target onnx"
        )
    environment = dict(os.environ, LD_LIBRARY_PATH=library_path(installation))
    try:
        return linked_version(backend, environment)
    except LibraryError as error:
        raise EngineError(f"{_needs(descriptor)}; it cannot be loaded here: {error}") from error


def _runs(engine: EngineSpec, tensorrt: str, compute_capability: str) -> bool:
    return (engine.tensorrt, engine.compute_capability) == (tensorrt, compute_capability)


def _needs(descriptor: PipelineDescriptor) -> str:
    engine = descriptor.engine
    assert engine is not None
    return (
        f"pipeline {descriptor.name!r}: its engines were built with TensorRT {engine.tensorrt} "
        f"for {engine.gpu} ({engine.compute_capability})"
    )
