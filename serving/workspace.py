"""The temporary folder of one server: its backend directory and its models' Python environment."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from serving.installation import PYTHON_MINOR, Installation, library_path
from serving.options import (
    LOG_LEVEL_VARIABLE,
    REPOSITORIES_VARIABLE,
    REPOSITORY_ROOT,
    SERVICE_VARIABLE,
    ServerOptions,
)

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def build_backends(installation: Installation, workspace: Path) -> Path | None:
    """Makes the backend directory, or returns None where the installation brings its own.

    The Python backend is copied, not linked: Triton refuses a backend library that lies outside
    its backend directory.
    """
    if installation.python_backend is None or installation.stub is None:
        return None
    backends = workspace / "backends"
    python = backends / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy2(installation.python_backend / name, python / name)
    shutil.copy2(installation.stub, python / installation.stub.name)
    for backend in sorted((REPOSITORY_ROOT / "backends").iterdir()):
        if (backend / "model.py").is_file():
            (backends / backend.name).symlink_to(backend, target_is_directory=True)
    return backends


def build_python(workspace: Path) -> Path:
    """Makes a small virtual environment whose ``bin`` belongs first on the server's PATH.

    The stub's interpreter ignores PYTHONPATH and PYTHONHOME and takes its prefix from the
    ``python3`` that it finds on PATH. This one has the packages of the running interpreter, the
    repository's own, and the client's.
    """
    environment = workspace / "python"
    site_packages = environment / "lib" / f"python{PYTHON_MINOR}" / "site-packages"
    site_packages.mkdir(parents=True)
    (environment / "bin").mkdir()
    (environment / "bin" / "python3").symlink_to(sys.executable)
    (environment / "pyvenv.cfg").write_text(
        f"home = {Path(sys.base_prefix) / 'bin'}\ninclude-system-site-packages = false\n"
    )
    inherited = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    # addsitedir, so that .pth files in there (editable installs) count too.
    lines = [f"import site; site.addsitedir({path!r})" for path in inherited]
    lines += [str(REPOSITORY_ROOT), str(REPOSITORY_ROOT / "client")]
    (site_packages / "segs_detailer_serving.pth").write_text("\n".join(lines) + "\n")
    return environment / "bin"


def server_environment(
    options: ServerOptions, installation: Installation, python_bin: Path
) -> dict[str, str]:
    """The environment of tritonserver and of the stubs that it starts."""
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join([str(python_bin), environment.get("PATH", os.defpath)])
    environment["LD_LIBRARY_PATH"] = library_path(installation)
    environment[REPOSITORIES_VARIABLE] = os.pathsep.join(
        str(folder.resolve()) for folder in options.repositories
    )
    environment[LOG_LEVEL_VARIABLE] = options.log_level
    environment[SERVICE_VARIABLE] = json.dumps(asdict(options.service))
    for name in _THREAD_VARIABLES:
        environment[name] = str(options.model_threads)
    # OpenMP's threads that spin while they wait take the cores from the other models.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    return environment


def server_command(
    options: ServerOptions,
    installation: Installation,
    *,
    backends: Path | None,
    shm_prefix: str,
    ports: Mapping[str, int],
    admin_key: str,
) -> list[str]:
    """tritonserver's command line; ``ports`` has grpc, and http and metrics if they are open.

    Calls that change the server (shared memory, model control, logging, tracing) ask for
    ``admin_key``, which nobody has: 2.51 lacks later fixes in just these.
    """
    restricted = f"shared-memory,model-repository,logging,trace:admin-key={admin_key}"
    command = [
        str(installation.binary),
        "--disable-auto-complete-config",
        "--model-control-mode=none",
        "--exit-on-error=true",
        "--strict-readiness=true",
        f"--exit-timeout-secs={max(1, int(options.stop_timeout_s / 2))}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--grpc-address={options.host}",
        f"--grpc-port={ports['grpc']}",
        f"--grpc-restricted-protocol={restricted}",
        f"--allow-http={str('http' in ports).lower()}",
        f"--allow-metrics={str('metrics' in ports).lower()}",
    ]
    for folder in (options.model_repository, *options.repositories):
        command.append(f"--model-repository={folder.resolve()}")
    if backends is not None:
        command.append(f"--backend-directory={backends}")
    if "http" in ports:
        command += [
            f"--http-address={options.host}",
            f"--http-port={ports['http']}",
            f"--http-restricted-api={restricted}",
        ]
    if "metrics" in ports:
        command += [f"--metrics-address={options.host}", f"--metrics-port={ports['metrics']}"]
    return command
