"""Where and with what a benchmark ran: the line above every table."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("nvidia-pytriton", "onnxruntime", "openvino", "torch", "numpy")


def describe() -> str:
    """Date, processor, cores, Python and versions of the libraries that are installed."""
    packages = "".join(f", {name} {found}" for name in _PACKAGES if (found := _version(name)))
    cores = len(os.sched_getaffinity(0))
    return (
        f"{datetime.date.today().isoformat()}; {_processor()}, {cores} cores; "
        f"Python {platform.python_version()}{packages}"
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
