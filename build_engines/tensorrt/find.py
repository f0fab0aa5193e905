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
_IN_NVIDIA_IMAGES = Path("/usr/src/tensorrt/bin/trtexec")


def find_builder() -> Builder:
    """The Python package ``tensorrt`` where it is installed, else the program trtexec.

    Raises:
        BuildError: neither is here, or its version is another than :data:`MAJORS`.
    """
    builder = _find()
    if int(builder.version.split(".")[0]) not in MAJORS:
        allowed = " and ".join(f"{major}.x" for major in MAJORS)
        raise BuildError(f"target: TensorRT {builder.version}; allowed: {allowed}")
    return builder


def _find() -> Builder:
    try:
        trt: Any = importlib.import_module("tensorrt")
    except ImportError:
        pass
    else:
        return ApiBuilder(trt)
    found = shutil.which("trtexec")
    program = Path(found) if found else _IN_NVIDIA_IMAGES
    if program.is_file():
        return TrtexecBuilder(program)
    raise BuildError(
        "target: no TensorRT: neither the Python package tensorrt nor the program trtexec is here. "
        "Build in the image that serves, or install the package in the version that serves"
    )
