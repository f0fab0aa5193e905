"""The NVIDIA GPUs of this machine, asked of the driver's own tool; nothing here imports CUDA."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

_FIELDS = ("name", "compute_cap", "memory.total", "driver_version")
_BYTES_PER_MIB = 1 << 20


class GpuError(Exception):
    """There is no GPU, or its driver does not answer; the message says which."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. ``compute_capability`` as "8.9", memory in GB (10⁹ bytes)."""

    name: str
    compute_capability: str
    memory_gb: float
    driver: str


def find_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in the driver's order; at least one.

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
        said = (result.stderr or result.stdout).strip()
        raise GpuError(f"nvidia-smi failed: {said or f'exit code {result.returncode}'}")
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
