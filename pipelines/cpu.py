"""What this machine's CPU can compute."""

from __future__ import annotations

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_BF16_FLAGS = ("avx512_bf16", "amx_bf16")


class CpuError(Exception):
    """The CPU lacks something."""


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """The flags of the first core, as Linux names them; none where it names none."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return next(
        (frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")),
        frozenset(),
    )


def require_bf16(flags: frozenset[str] | None = None) -> None:
    """
    Raises:
        CpuError: the CPU does not compute in bfloat16; names the flags that it has and lacks.
    """
    found = cpu_flags() if flags is None else flags
    if not found.intersection(_BF16_FLAGS):
        vectors = sorted(flag for flag in found if flag.startswith(("avx", "amx")))
        raise CpuError(
            f"bf16 needs a CPU with {' or '.join(_BF16_FLAGS)} (flags in /proc/cpuinfo); this one "
            f"has {', '.join(vectors) or 'no vector instructions that Linux names'}"
        )
