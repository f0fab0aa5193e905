"""The NVIDIA GPUs of this machine, as nvidia-smi reports them; imports no CUDA."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

_FIELDS = ("name", "compute_cap", "memory.total", "driver_version")
_BYTES_PER_MIB = 1 << 20


class GpuError(Exception):
    """There is no GPU, or nvidia-smi fails."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. ``compute_capability`` as "8.9", memory in GB (10⁹ bytes)."""

    name: str
    compute_capability: str
    memory_gb: float
    driver: str


def find_gpus() -> tuple[Gpu, ...]:
    """The GPUs allowed by CUDA_VISIBLE_DEVICES, in the driver's order; at least one.

    Raises:
        GpuError: there is none, or nvidia-smi cannot be run.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    if chosen := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={chosen}")
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, env=_environment()
        )
    except FileNotFoundError:
        raise GpuError("no NVIDIA GPU: nvidia-smi is not on PATH") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuError(f"nvidia-smi cannot be run: {error}") from error
    if result.returncode != 0:
        output = (result.stderr or result.stdout).strip()
        raise GpuError(f"nvidia-smi failed: {output or f'exit code {result.returncode}'}")
    gpus = tuple(_parse(line) for line in result.stdout.splitlines() if line.strip())
    if not gpus:
        raise GpuError("no NVIDIA GPU: nvidia-smi lists none")
    return gpus


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def _parse(line: str) -> Gpu:
    values = [value.strip() for value in line.split(",")]
    try:
        name, capability, memory_mib, driver = values
        return Gpu(name, capability, float(memory_mib) * _BYTES_PER_MIB / 1e9, driver)
    except ValueError as error:
        raise GpuError(f"nvidia-smi says {line!r}; {', '.join(_FIELDS)} were asked for") from error
