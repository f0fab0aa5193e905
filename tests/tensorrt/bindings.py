"""The real Python bindings of TensorRT, asked for their API without TensorRT itself.

The package ``tensorrt_cu13_bindings`` is small and needs three large libraries only to be
imported. Libraries of the same names, whose functions do nothing, let it be imported where there
is no GPU; nothing of TensorRT can be called then, but all signatures can be read.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


def why_not() -> str | None:
    """Why the bindings cannot be asked; None where they can."""
    if shutil.which("cc") is None:
        return "needs a C compiler (cc) for the stand-ins of TensorRT's libraries"
    if find_spec("tensorrt_bindings") is None:
        return "the package tensorrt_cu13_bindings is not installed"
    return None


def read_api(scratch: Path) -> dict[str, Any]:
    """The API of the bindings, as dump_api.py says it."""
    major = version("tensorrt_cu13_bindings").split(".")[0]
    source = scratch / "stand_in.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS))
    for library in _LIBRARIES:
        compile_library(source, scratch / f"lib{library}.so.{major}")
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("dump_api.py"))],
        env={**os.environ, "LD_LIBRARY_PATH": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    api: dict[str, Any] = json.loads(result.stdout)
    return api


def compile_library(source: Path, library: Path, *more: str) -> None:
    """Compiles a C file to a shared library whose soname is its file name."""
    soname = f"-Wl,-soname,{library.name}"
    command = ["cc", "-shared", "-fPIC", str(source), "-o", str(library), soname, *more]
    subprocess.run(command, check=True, capture_output=True)
