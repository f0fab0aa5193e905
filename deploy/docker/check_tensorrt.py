"""Fails unless TensorRT's Python bindings and the machine's libnvinfer are of one version.

Run when the GPU image is built: engines are made through the bindings and loaded by Triton's
TensorRT backend, and an engine runs only in the version that made it. Needs no GPU.
"""

from __future__ import annotations

import ctypes
import importlib
import sys

_PARTS = ("Major", "Minor", "Patch", "Build")


def library_version(soname: str) -> str:
    """The version that a TensorRT runtime library reports, e.g. ``11.2.1.2``.

    Raises:
        OSError: the dynamic loader does not find the library.
        AttributeError: it is not TensorRT's.
    """
    library = ctypes.CDLL(soname)
    return ".".join(str(getattr(library, f"getInferLib{part}Version")()) for part in _PARTS)


def check(bindings: str = "tensorrt_bindings") -> str:
    """Imports the bindings, which load libnvinfer, and returns the version of both.

    Raises:
        ImportError: the bindings or a library of theirs is missing.
        ValueError: the versions differ.
    """
    wanted: str = importlib.import_module(bindings).__version__
    found = library_version(f"libnvinfer.so.{wanted.partition('.')[0]}")
    if found != wanted:
        raise ValueError(
            f"TensorRT's bindings are {wanted}, the image's libnvinfer is {found}; "
            f"build with --build-arg TENSORRT_VERSION={found}"
        )
    return found


if __name__ == "__main__":
    sys.stdout.write(f"TensorRT {check()}\n")
