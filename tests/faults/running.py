"""``python -m serving serve`` as a process of its own, and what belongs to it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from serving.process import model_processes

_START_S = 120.0
_STOP_S = 60.0


@dataclass(frozen=True)
class Supervised:
    """A server under supervision; it may be another tritonserver from one moment to the next."""

    process: subprocess.Popen[bytes]
    ready_file: Path
    health_url: str
    log_path: Path

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        return self.process.pid

    @property
    def url(self) -> str:
        """``host:port`` of gRPC; the same after every restart."""
        return f"127.0.0.1:{json.loads(self.ready_file.read_text())['grpc_port']}"

    def health(self) -> dict[str, Any]:
        """What the health port says.

        Raises:
            OSError: it does not answer.
        """
        try:
            with urllib.request.urlopen(f"{self.health_url}/health/ready", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            found = json.load(error)
        return found

    def stubs(self) -> dict[str, int]:
        """The processes of Python models: process id by instance name."""
        return model_processes(self.pid)

    def processes(self) -> dict[str, int]:
        """All processes by what they are: ``supervisor``, ``guard``, ``tritonserver``, and the
        instance name of each Python model."""
        names = {pid: name for name, pid in self.stubs().items()}
        found = {"supervisor": self.pid}
        for process in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found[names.get(process.pid) or _role(process)] = process.pid
        return found


def _role(process: psutil.Process) -> str:
    command = process.cmdline()
    if "serving.guard" in command:
        return "guard"
    return Path(command[0]).name if command else process.name()


@contextlib.contextmanager
def serve(repository: Path, folder: Path, *options: str) -> Iterator[Supervised]:
    """Serves the pipeline ``sd15`` and its ControlNet until the end.

    Args:
        repository: with the compiled pipeline, among others.
        folder: for the server's log and what else it needs; empty.
        options: of ``serving serve``.

    Raises:
        RuntimeError: it did not start, or did not stop as it should.
    """
    pipelines = folder / "pipelines"
    pipelines.mkdir()
    for path in repository.glob("sd15_*"):
        (pipelines / path.name).symlink_to(path)
    shutil.copy(repository / "sd15.pipeline.json", pipelines)
    ready_file, log_path = folder / "ready.json", folder / "server.log"
    command = [sys.executable, "-m", "serving", "serve", "--grpc-port", "0", "--health-port", "0"]
    command += ["--repository", str(pipelines), "--ready-file", str(ready_file), *options]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        deadline = time.monotonic() + _START_S
        while not ready_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"not ready:\n{log_path.read_text()}")
            time.sleep(0.05)
        told = re.search(r"http://[0-9.:]+", log_path.read_text())
        if told is None:
            raise RuntimeError("the server does not tell its health port")
        yield Supervised(process, ready_file, told[0], log_path)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
    if status != 0:
        raise RuntimeError(f"the server ended with {status}:\n{log_path.read_text()[-2000:]}")
