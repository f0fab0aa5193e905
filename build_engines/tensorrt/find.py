"""Which TensorRT is here."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

from build_engines.errors import BuildError
from build_engines.tensorrt.api import ApiBuilder
from build_engines.tensorrt.base import Builder
from build_engines.tensorrt.trtexec import TrtexecBuilder

MAJORS = (10, 11)
"""Of TensorRT, that the builders are written for."""
_PACKAGES = ("tensorrt", "tensorrt_bindings")
"""The bindings are installed alone where the libraries are the system's, as in Triton's image."""
_IN_NVIDIA_IMAGES = Path("/usr/src/tensorrt/bin/trtexec")


def find_builder() -> Builder:
    """The Python package where it can be imported, else the program trtexec.

    Raises:
        BuildError: neither is here, or its version is another than :data:`MAJORS`.
    """
    builder = _find()
    if int(builder.version.split(".")[0]) not in MAJORS:
        allowed = " and ".join(f"{major}.x" for major in MAJORS)
        raise BuildError(f"target: TensorRT {builder.version}; allowed: {allowed}")
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


def _find() -> Builder:
    try:
        return ApiBuilder(import_tensorrt())
    except ImportError as error:
        reason = str(error)
    found = shutil.which("trtexec")
    program = Path(found) if found else _IN_NVIDIA_IMAGES
    if program.is_file():
        return TrtexecBuilder(program)
    raise BuildError(
        f"target: no TensorRT: no Python package ({reason}), and no program trtexec. "
        "Build in the image that serves, or install the package in the version that serves"
    )
