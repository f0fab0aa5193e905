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
import sysconfig
from pathlib import Path
from typing import Any

PINNED = Path(sysconfig.get_path("purelib"))
"""Where requirements-nodeps.txt puts 11.x."""
OLDER = Path(sys.prefix) / "tensorrt-10"
"""Where the Makefile puts 10.x, beside it, as both have the same module name."""

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


def why_not(folder: Path) -> str | None:
    """Why the bindings in that folder cannot be asked; None where they can."""
    if shutil.which("cc") is None:
        return "needs a C compiler (cc) for the stand-ins of TensorRT's libraries"
    if not (folder / "tensorrt_bindings").is_dir():
        return f"the bindings are not installed in {folder}; make install"
    return None


def read_api(folder: Path, scratch: Path) -> dict[str, Any]:
    """The API of the bindings in a folder, as dump_api.py says it."""
    (info,) = folder.glob("tensorrt_cu13_bindings-*.dist-info")
    major = info.name.split("-")[1].split(".")[0]
    source = scratch / "stand_in.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS))
    for library in _LIBRARIES:
        compile_library(source, scratch / f"lib{library}.so.{major}")
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("dump_api.py")), str(folder)],
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
