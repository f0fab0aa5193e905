"""The TensorRT version that a program would run with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_LINKED = re.compile(r"^\s*libnvinfer\.so\.\d+ => (/\S+)", re.MULTILINE)
_ASK = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).getInferLibVersion())"


class LibraryError(Exception):
    """The library is not found or cannot be loaded."""


def linked_version(file: Path, environment: Mapping[str, str] | None = None) -> str:
    """The version of libnvinfer that the dynamic loader finds for a program or library.

    Args:
        file: linked with libnvinfer, such as Triton's TensorRT backend.
        environment: of the program, with its LD_LIBRARY_PATH. None: this process's.

    Returns:
        For example "11.2.1".

    Raises:
        LibraryError: the library is not found or cannot be loaded.
    """
    environment = {**(os.environ if environment is None else environment), "LC_ALL": "C"}
    found = _LINKED.search(_run(["ldd", str(file)], environment))
    if found is None:
        raise LibraryError(f"{file}: the dynamic loader finds no libnvinfer for it")
    # In its own process: the library is large, and LD_LIBRARY_PATH is read at the start only.
    return version_text(int(_run([sys.executable, "-c", _ASK, found.group(1)], environment)))


def version_text(number: int) -> str:
    """``getInferLibVersion``'s number as text: 110201 is 11.2.1."""
    major, rest = divmod(number, 10_000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    try:
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=120
        )
    except subprocess.CalledProcessError as error:
        raise LibraryError(f"{command[-1]}: {error.stderr.strip()[-300:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LibraryError(f"{command[-1]}: {error}") from error
    return result.stdout
