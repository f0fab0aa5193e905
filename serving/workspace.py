"""Builds the temporary folder of one server: backend directory and Python environment."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from segs_client.contract import API_KEY_HEADER, TRACE_HEADERS
from serving.credentials import ADMIN_HEADER
from serving.installation import PYTHON_BACKEND, PYTHON_MINOR, Installation, library_path
from serving.leftovers import is_plain
from serving.options import REPOSITORY_ROOT, RESTRICTED, ServerOptions
from serving.repositories import model_folders
from triton_models import environment, memory
from triton_models.in_flight import POOL_THREADS
from triton_models.tracing import is_wanted, tracing_environment

OWN_BACKENDS = REPOSITORY_ROOT / "backends"
PREFERRED = ("openvino",)
"""Backends of this project that take the place of native ones: theirs would round timesteps."""
_PINGS = (
    # A call may have no traffic for minutes. Pings keep it open in proxies and firewalls, and
    # detect a client that has disconnected without notice.
    "--grpc-keepalive-time=60000",
    "--grpc-keepalive-timeout=20000",
    "--grpc-http2-max-pings-without-data=0",
    # Clients may send pings, too; gRPC's default limit, 5 minutes, would close their connections.
    "--grpc-http2-min-recv-ping-interval-without-data=10000",
)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def build_backends(installation: Installation, workspace: Path) -> Path:
    """Builds the backend directory: the installation's backends, and this project's others.

    A backend of this project replaces no native one of the same name but those of
    :data:`PREFERRED`. Folders are linked.
    nvidia-pytriton's Python backend is copied: its stub must be beside it, and Triton refuses a
    backend library that is a link out of its folder.
    """
    backends = workspace / "backends"
    backends.mkdir()
    if installation.stub is not None:
        python = backends / "python"
        python.mkdir()
        for name in (PYTHON_BACKEND, "triton_python_backend_utils.py"):
            shutil.copy2(installation.backends / "python" / name, python / name)
        shutil.copy2(installation.stub, python / installation.stub.name)
    own = [folder for folder in OWN_BACKENDS.iterdir() if (folder / "model.py").is_file()]
    preferred = [folder for folder in own if folder.name in PREFERRED]
    for folder in (*preferred, *installation.backends.iterdir(), *own):
        link = backends / folder.name
        if not link.exists():
            link.symlink_to(folder, target_is_directory=True)
    return backends


def plain_paths(folders: Sequence[Path], workspace: Path) -> list[Path]:
    """The folders' paths, or links to those whose paths are not plain."""
    links = workspace / "repositories"
    links.mkdir(exist_ok=True)
    found = []
    for folder in folders:
        path = folder.resolve()
        if not is_plain(path):
            link = links / str(len(list(links.iterdir())))
            link.symlink_to(path, target_is_directory=True)
            path = link
        found.append(path)
    return found


def build_python(workspace: Path) -> Path:
    """Creates a virtual environment whose ``bin`` must be first on the server's PATH.

    The stub's interpreter ignores PYTHONPATH and PYTHONHOME and takes its prefix from the first
    ``python3`` on PATH. The environment has the packages of the running interpreter, of the
    repository and of the client.
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
    # The repository precedes installed packages; addsitedir also reads .pth files.
    own = (str(REPOSITORY_ROOT), str(REPOSITORY_ROOT / "client"))
    lines = [f"import os, sys; sys.path.append({_literal(path)})" for path in own]
    lines += [f"import os, site; site.addsitedir({_literal(path)})" for path in inherited]
    (site_packages / "segs_detailer_serving.pth").write_text("\n".join(lines) + "\n")
    return environment / "bin"


def _literal(path: str) -> str:
    """The path as an ASCII Python literal: the stub's interpreter may not read other letters."""
    return f"os.fsdecode({os.fsencode(path)!r})"


def server_environment(
    options: ServerOptions, installation: Installation, python_bin: Path, state: Path
) -> dict[str, str]:
    """The variables of tritonserver and of the stubs that it starts."""
    variables = dict(os.environ)
    variables["PATH"] = os.pathsep.join([str(python_bin), variables.get("PATH", os.defpath)])
    variables["LD_LIBRARY_PATH"] = library_path(installation)
    variables[environment.REPOSITORIES] = os.pathsep.join(map(str, options.repositories))
    variables[environment.LOG_LEVEL] = options.log_level
    variables[environment.LOG_FORMAT] = options.log_format
    variables.update(tracing_environment(variables))
    variables[environment.LIMITS] = json.dumps(asdict(options.limits))
    variables[environment.STATE] = str(state)
    if options.metrics_port is not None:
        variables[environment.METRICS] = "1"
    for name in _THREAD_VARIABLES:
        variables[name] = str(options.model_threads)
    # Spinning OpenMP threads would take the cores from other models.
    variables.setdefault("OMP_WAIT_POLICY", "passive")
    return {**memory.environment(), **variables}


def server_command(
    options: ServerOptions,
    installation: Installation,
    *,
    backends: Path,
    shm_prefix: str,
    ports: Mapping[str, int],
    admin_key: str,
    tls: Sequence[str] = (),
) -> list[str]:
    """tritonserver's command line. ``ports`` has grpc, and http and metrics if they are open; calls
    of the restricted protocols require ``admin_key``; ``tls``: TLS arguments.
    """
    folders = (options.model_repository, *options.repositories)
    models = {path.name for folder in folders for path in model_folders(folder)}
    names = [name for name in RESTRICTED if name not in options.open_protocols]
    restricted = f"{','.join(names)}:{ADMIN_HEADER}={admin_key}"
    # The forms of IPv6 addresses in gRPC and libevhtp.
    host, http_host = options.host, options.host
    if ":" in options.host:
        host, http_host = f"[{options.host}]", f"ipv6:{options.host}"
    command = [
        str(installation.binary),
        "--disable-auto-complete-config",
        "--model-control-mode=explicit",
        # One by one: with * Triton would load every folder as a model.
        *(f"--load-model={name}" for name in sorted(models)),
        "--exit-on-error=true",
        "--strict-readiness=true",
        f"--exit-timeout-secs={max(1, int(options.stop_timeout_s / 2))}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--backend-config=python,thread-pool-size={POOL_THREADS}",
        f"--grpc-address={host}",
        f"--grpc-port={ports['grpc']}",
        *_PINGS,
        *([f"--grpc-restricted-protocol={restricted}"] if names else []),
        *tls,
        f"--allow-http={str('http' in ports).lower()}",
        f"--allow-metrics={str('metrics' in ports).lower()}",
    ]
    command += [f"--model-repository={folder}" for folder in folders]
    if "http" in ports:
        command += [
            f"--http-address={http_host}",
            f"--http-port={ports['http']}",
            *([f"--http-restricted-api={restricted}"] if names else []),
        ]
    forwarded = [API_KEY_HEADER] if options.api_keys is not None else []
    forwarded += TRACE_HEADERS if is_wanted(os.environ) else ()
    if forwarded:
        pattern = f"(?i)({'|'.join(forwarded)})"
        command += [f"--{each}-header-forward-pattern={pattern}" for each in ("grpc", "http")]
    if "metrics" in ports:
        command += [f"--metrics-address={http_host}", f"--metrics-port={ports['metrics']}"]
    return command
