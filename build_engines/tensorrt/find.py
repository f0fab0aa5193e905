"""Which TensorRT is here."""

from __future__ import annotations

import importlib
from typing import Any

from build_engines.errors import BuildError
from build_engines.tensorrt.engine_builder import EngineBuilder

MAJOR = 11
"""Of TensorRT, that the builder is written for and that the GPU image serves with."""
_PACKAGES = ("tensorrt", "tensorrt_bindings")
"""The bindings are installed alone where the libraries are the system's, as in Triton's image."""


def find_builder() -> EngineBuilder:
    """The builder with the TensorRT of this machine.

    Raises:
        BuildError: none can be imported, or its version is another than :data:`MAJOR`.
    """
    try:
        builder = EngineBuilder(import_tensorrt())
    except ImportError as error:
        raise BuildError(
            f"target: no Python package of TensorRT ({error}). "
            "Build in the image that serves, or install the package in the version that serves"
        ) from error
    if not builder.version.startswith(f"{MAJOR}."):
        raise BuildError(f"target: TensorRT {builder.version}; allowed: {MAJOR}.x")
    return builder


def import_tensorrt() -> Any:
    """The module ``tensorrt``, or the bindings that are the same.

    Raises:
        ImportError: why neither can be imported.
    """
    reasons = []
    for package in _PACKAGES:
        try:
            return importlib.import_module(package)
        except ImportError as error:
            reasons.append(str(error))
    raise ImportError("; ".join(reasons))
