"""Fails unless the Python package ``tensorrt`` is of the version that Triton's backend runs with.

Run when the GPU image is built: engines are made through the package and loaded by the backend,
and an engine runs only in the version that made it. Needs no GPU.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from pipelines.libnvinfer import linked_version

BACKEND = Path("/opt/tritonserver/backends/tensorrt/libtriton_tensorrt.so")


def check(backend: Path = BACKEND) -> str:
    """Returns the version of both, such as ``11.2.1``.

    Raises:
        ImportError: the package or a library of it is missing.
        LibraryError: the backend is missing, or no libnvinfer is here for it.
        ValueError: the versions differ.
    """
    package = importlib.import_module("tensorrt").__version__
    version = ".".join(package.split(".")[:3])
    linked = linked_version(backend)
    if linked != version:
        raise ValueError(
            f"the package tensorrt is {package}, Triton's backend runs with {linked}; "
            f"build with --build-arg TENSORRT_VERSION= and PyPI's version of {linked}"
        )
    return version


if __name__ == "__main__":
    sys.stdout.write(f"TensorRT {check()}\n")
