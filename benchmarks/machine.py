"""Where and with what a benchmark ran: the line above every table."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("nvidia-pytriton", "onnxruntime", "torch", "numpy")


def describe() -> str:
    """Date, processor, cores, Python and library versions."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    cores = len(os.sched_getaffinity(0))
    return (
        f"{datetime.date.today().isoformat()}; {_processor()}, {cores} cores; "
        f"Python {platform.python_version()}, {packages}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
