"""Finds a tritonserver and checks its libraries."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serving.errors import InstallationError

log = logging.getLogger(__name__)

PYTHON_MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBPYTHON = f"libpython{PYTHON_MINOR}.so.1.0"
STUB_NAME = "triton_python_backend_stub"
PYTHON_BACKEND = "libtriton_python.so"

_WHEELS = {"0.7.0": "2.51.0"}
"""nvidia-pytriton → the tritonserver in it."""
_DEBIAN_PACKAGES = {
    "libz.so.1": "zlib1g",
    "libstdc++.so.6": "libstdc++6",
    "libgcc_s.so.1": "libgcc-s1",
    "libexpat.so.1": "libexpat1",
    "libresolv.so.2": "libc6",
}


@dataclass(frozen=True)
class Installation:
    """A tritonserver with its files."""

    binary: Path
    library_dirs: tuple[Path, ...]
    backends: Path
    """Its own backends, a folder each, including ``python``."""
    stub: Path | None = None
    """The Python backend's stub for the running Python; None if it is in ``backends/python``, as
    in NVIDIA's image."""
    version: str | None = None
    """tritonserver's version, such as 2.51.0; None if it is unknown."""


def find_installation(tritonserver: Path | None = None) -> Installation:
    """Finds the server: the given path, then PATH, then the nvidia-pytriton package.

    Raises:
        InstallationError: there is none, or it has no Python backend for the running Python.
    """
    if tritonserver is None:
        on_path = shutil.which("tritonserver")
        binary = _bundled_binary() if on_path is None else Path(on_path)
    elif tritonserver.is_file():
        binary = tritonserver
    else:
        raise InstallationError(f"--tritonserver {tritonserver}: no such file")
    binary = binary.resolve()
    root = binary.parent.parent
    if (root / "python_backend_stubs").is_dir():
        return _of_wheel(root)
    backends = root / "backends"
    if not (backends / "python").is_dir():
        raise InstallationError(f"{binary}: no Python backend in {backends}")
    return Installation(binary, _libpython_dirs(), backends, version=_version(root))


def _version(root: Path) -> str | None:
    """The version by a file in NVIDIA's images."""
    try:
        return (root / "TRITON_VERSION").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def _bundled_binary() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise InstallationError(
            "no tritonserver: it is not on PATH, and the package nvidia-pytriton is not installed "
            f"for {sys.executable}; pip install nvidia-pytriton==0.7.0, or give --tritonserver PATH"
        )
    return Path(spec.origin).parent / "tritonserver" / "bin" / "tritonserver"


def _of_wheel(root: Path) -> Installation:
    """The parts of nvidia-pytriton's folder ``tritonserver``."""
    stub = root / "python_backend_stubs" / PYTHON_MINOR / STUB_NAME
    if not stub.is_file():
        found = sorted(path.name for path in (root / "python_backend_stubs").glob("3.*"))
        raise InstallationError(
            f"nvidia-pytriton has no Python backend for Python {PYTHON_MINOR}; "
            f"it has them for {', '.join(found) or 'none'}"
        )
    return Installation(
        binary=root / "bin" / "tritonserver",
        library_dirs=(*_libpython_dirs(), root.parent.parent / "nvidia_pytriton.libs"),
        backends=root / "backends",
        stub=stub,
        version=_WHEELS.get(_wheel_version()),
    )


def _wheel_version() -> str:
    try:
        return version("nvidia-pytriton")
    except PackageNotFoundError:
        return ""


def _libpython_dirs() -> tuple[Path, ...]:
    """The folder of the running interpreter's shared library; empty for the system's folder.

    The system's folder is left to the dynamic loader, since it could hide other libraries.
    """
    configured = sysconfig.get_config_var("LIBDIR")
    candidates = [Path(sys.base_prefix) / "lib", *([Path(configured)] if configured else [])]
    for folder in candidates:
        if (folder / LIBPYTHON).is_file() and not folder.is_relative_to("/usr/lib"):
            return (folder,)
    return ()


def check_libraries(installation: Installation) -> None:
    """Checks with the dynamic loader that server, backend and stub find their libraries.

    Raises:
        InstallationError: names each missing library and, if known, its Debian package.
    """
    files = [installation.binary]
    if installation.stub is not None:
        files += [installation.stub, installation.backends / "python" / PYTHON_BACKEND]
    environment = dict(os.environ, LD_LIBRARY_PATH=library_path(installation), LC_ALL="C")
    missing: set[str] = set()
    for file in files:
        missing |= missing_libraries(file, environment)
    if missing:
        raise InstallationError(
            "tritonserver cannot start, the machine lacks "
            + "; ".join(_advice(name) for name in sorted(missing))
        )


def library_path(installation: Installation) -> str:
    """The server's LD_LIBRARY_PATH: its own folders before the caller's."""
    parts = [str(folder) for folder in installation.library_dirs]
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return os.pathsep.join([*parts, inherited] if inherited else parts)


def missing_libraries(file: Path, environment: dict[str, str]) -> set[str]:
    """Names of libraries that ``ldd`` does not find for ``file``; empty without ``ldd``."""
    try:
        result = subprocess.run(
            ["ldd", str(file)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("cannot check the server's libraries: %s", error)
        return set()
    output = result.stdout + result.stderr
    names = set(re.findall(r"^\s*(\S+) => not found", output, re.MULTILINE))
    return names | set(re.findall(r"version `(\S+)' not found", output))


def _advice(name: str) -> str:
    if name.startswith("GLIBC"):
        return f"{name}: the C library is too old (Debian 12 or Ubuntu 22.04 at least)"
    package = _DEBIAN_PACKAGES.get(name)
    python = re.fullmatch(r"(libpython3\.\d+)\.so\.1\.0", name)
    if python:
        package = python[1]
    return f"{name}: apt-get install {package}" if package else name
