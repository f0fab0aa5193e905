"""Starts a tritonserver: its command and environment, its reaper, and its output."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from serving.credentials import Credentials
from serving.installation import Installation
from serving.leftovers import Belongings
from serving.logs import LogReader
from serving.options import REPOSITORY_ROOT, ServerOptions
from serving.reaper import Orders
from serving.workspace import (
    build_backends,
    build_python,
    plain_paths,
    server_command,
    server_environment,
)


class Launched(NamedTuple):
    """A starting server."""

    reaper: subprocess.Popen[str]
    pid: int
    """Process id of tritonserver itself; 0 if it could not be started."""
    log: LogReader
    tls: Mapping[str, Any]
    """Options of this machine's connections with its TLS; empty without TLS."""


def launch(
    options: ServerOptions,
    installation: Installation,
    belongings: Belongings,
    ports: Mapping[str, int],
    credentials: Credentials,
    owner_fd: int,
) -> Launched:
    """Starts a reaper, which starts the server.

    Args:
        ports: grpc, and http and metrics if they are open.
        owner_fd: of the belongings; the reaper keeps it open while it runs.

    Raises:
        OSError: files cannot be written.
        ServingError: TLS files cannot be used.
    """
    workspace = Path(belongings.workspace)
    own, *given = plain_paths((options.model_repository, *options.repositories), workspace)
    options = replace(options, model_repository=own, repositories=tuple(given))
    arguments, connection = _open_tls(options, workspace)
    command = server_command(
        options,
        installation,
        backends=build_backends(installation, workspace),
        shm_prefix=belongings.shm_prefix,
        ports=ports,
        admin_key=credentials.admin_key,
        tls=arguments,
    )
    python_bin = build_python(workspace)
    environment = server_environment(options, installation, python_bin, belongings.state)
    environment.update(credentials.environment(options.api_keys))
    read, write = os.pipe()
    with os.fdopen(read) as pid_read, os.fdopen(write, "w") as pid_write:
        orders = Orders(
            command=command,
            belongings=asdict(belongings),
            stop_timeout_s=options.stop_timeout_s,
            starter_pid=os.getpid(),
            pid_fd=pid_write.fileno(),
        )
        reaper = subprocess.Popen(
            [sys.executable, "-m", "serving.reaper", json.dumps(orders)],
            cwd=REPOSITORY_ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            pass_fds=(orders["pid_fd"], owner_fd),
            start_new_session=True,
        )
        try:
            pid_write.close()  # leaves the reaper's end as the only one
            assert reaper.stdout is not None
            server_log = logging.getLogger("tritonserver")
            log = LogReader(reaper.stdout, server_log, options.log_path, credentials)
            return Launched(reaper, int(pid_read.readline() or 0), log, connection)
        except BaseException:
            reaper.kill()  # tritonserver ends with it
            reaper.wait()
            raise


def _open_tls(options: ServerOptions, workspace: Path) -> tuple[Sequence[str], Mapping[str, Any]]:
    """Returns tritonserver's arguments and the options of a connection."""
    if options.tls is None:
        return (), {}
    # Imported here: only TLS needs its library.
    from serving.tls import open_tls

    opened = open_tls(options.tls, workspace)
    return opened.arguments, opened.connection
