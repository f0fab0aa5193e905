"""Finds perf_analyzer and the libraries it needs, or fetches both once."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.perf.errors import PerfError
from serving.installation import missing_libraries

ASKED_FOR = ("statistics", "model-config")
"""Protocols that a server has to leave open for perf_analyzer."""

log = logging.getLogger(__name__)

WHEELS = {
    "nvidia-cuda-runtime-cu12==12.9.79": "nvidia/cuda_runtime/lib/libcudart.so.12",
    "tritonclient==2.48.0": "*.data/data/bin/perf_analyzer",
}
"""Packages of PyPI, and the one file that is taken out of each. Neither is installed: tritonclient
would replace the project's own."""
_REMEDIES = {
    "libb64.so.0d": "apt-get install libb64-0d",
    "libssl.so.3": "apt-get install libssl3",
    "libcrypto.so.3": "apt-get install libssl3",
    "libcudart.so.12": "put the folder of CUDA 12's libcudart on LD_LIBRARY_PATH",
}


@dataclass(frozen=True)
class PerfAnalyzer:
    """A binary that can be run, and the folder of libraries that it brings along."""

    path: Path
    library_dir: Path | None = None

    def environment(self) -> dict[str, str]:
        """The caller's environment with ``library_dir`` before its library path."""
        inherited = os.environ.get("LD_LIBRARY_PATH")
        parts = [str(part) for part in (self.library_dir, inherited) if part]
        return (
            {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(parts)} if parts else {**os.environ}
        )


def find(given: Path | None, folder: Path) -> PerfAnalyzer | None:
    """The binary at ``given``, else the one on PATH, else the one in ``folder``; None without any.

    Raises:
        PerfError: ``given`` is no file, or a library is missing; says how to get it.
    """
    if given is not None:
        if not given.is_file():
            raise PerfError(f"--perf-analyzer {given}: no such file")
        return _checked(PerfAnalyzer(given.resolve()))
    on_path = shutil.which("perf_analyzer")
    if on_path is not None:
        return _checked(PerfAnalyzer(Path(on_path)))
    fetched = _in(folder)
    return _checked(fetched) if fetched.path.is_file() else None


def find_or_fetch(given: Path | None, folder: Path) -> PerfAnalyzer:
    """:func:`find`, after filling ``folder`` where there is no binary.

    Raises:
        PerfError: as :func:`find`; or the download failed.
    """
    found = find(given, folder)
    if found is None:
        fetch(folder)
        found = _checked(_in(folder))
    return found


def fetch(folder: Path) -> None:
    """Downloads the wheels of :data:`WHEELS` and puts one file of each into ``folder``.

    Raises:
        PerfError: pip cannot download them, or a wheel lacks its file.
    """
    log.info("fetching perf_analyzer into %s (once): %s", folder, ", ".join(WHEELS))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for requirement in WHEELS:
            _download(requirement, Path(scratch))
        taken = [
            _extract(next(Path(scratch).glob(_wheel_name(requirement))), pattern, Path(scratch))
            for requirement, pattern in WHEELS.items()
        ]
        for file in taken:  # the binary last: where it is, the rest is too
            file.chmod(0o755)
            file.replace(folder / file.name)


def _in(folder: Path) -> PerfAnalyzer:
    return PerfAnalyzer((folder / "perf_analyzer").resolve(), folder.resolve())


def _download(requirement: str, folder: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement,
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise PerfError(
            f"cannot download {requirement}: {result.stderr.strip()[-500:]}\n"
            "Put perf_analyzer on PATH (NVIDIA's SDK image has it) or give --perf-analyzer PATH"
        )


def _wheel_name(requirement: str) -> str:
    return requirement.replace("-", "_").replace("==", "-") + "-*.whl"


def _extract(wheel: Path, pattern: str, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if fnmatch(name, pattern):
                return Path(archive.extract(name, folder))
    raise PerfError(
        f"{wheel.name} has no {pattern}; put perf_analyzer on PATH or give --perf-analyzer PATH"
    )


def _checked(found: PerfAnalyzer) -> PerfAnalyzer:
    missing = missing_libraries(found.path, {**found.environment(), "LC_ALL": "C"})
    if missing:
        raise PerfError(
            f"{found.path} cannot start, the machine lacks "
            + "; ".join(
                f"{name}: {_REMEDIES[name]}" if name in _REMEDIES else name
                for name in sorted(missing)
            )
        )
    return found
