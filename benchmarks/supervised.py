"""``python -m serving serve`` in a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from segs_client import access
from serving.canary import Canary, run_canary
from serving.connection import Connection
from serving.errors import CanaryError
from serving.installation import STUB_NAME
from serving.options import REPOSITORY_ROOT
from serving.ports import claim_port
from serving.process import model_processes
from serving.times import HEALTHY_S
from triton_models import environment
from triton_models.state import EngineStatus, model_of, read_engine

PIPELINE = "sd15"
START_S = 300.0
"""Within this a server has to start; these machines are small and shared."""
STOP_S = 60.0
_PORTS = ("grpc", "http", "health", "grpc-health")
_SHARED_MEMORY = Path("/dev/shm")
_SHM_PREFIX = re.compile(r"\bsegs[0-9a-f]+-")


class PromiseBroken(Exception):  # noqa: N818 - named for what happened
    """What was seen is not what users are promised."""


@dataclass(frozen=True)
class Setup:
    """How a server is started."""

    repository: Path
    options: Sequence[str] = ()
    """Further ones of the command line; the last of two that are the same counts."""
    prefix: Sequence[str] = ()
    """What the command is run by, such as ``unshare -m``."""
    environment: Mapping[str, str] = field(default_factory=dict)


class Supervised:
    """One supervised server on ports of its own, which it keeps when it is started again.

    Args:
        folder: for its log and its temporary files; nothing else is in there.
    """

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup = setup
        self.ports = {name: claim_port("127.0.0.1", 0, f"--{name}-port") for name in _PORTS}
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.log_path = folder / "log"
        self._ready_file = folder / "ready.json"
        self.process: subprocess.Popen[bytes] | None = None
        self._shm_prefixes: set[str] = set()
        self._roles: dict[int, str] = {}
        self._counts: dict[str, int] = {}
        """Processes of each role, as there are while nothing is loaded again."""

    def spawn(self) -> subprocess.Popen[bytes]:
        """Starts it and waits for nothing."""
        self._ready_file.unlink(missing_ok=True)  # one that was killed leaves it
        command = [*self.setup.prefix, sys.executable, "-m", "serving", "serve"]
        for name, port in self.ports.items():
            command += [f"--{name}-port", str(port)]
        command += ["--repository", str(self.setup.repository)]
        command += ["--ready-file", str(self._ready_file), *self.setup.options]
        environment = {**os.environ, "TMPDIR": str(self.temporary), **self.setup.environment}
        environment.pop(access.API_KEY_VARIABLE, None)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY_ROOT, stderr=log, env=environment
            )
        return self.process

    def start(self) -> None:
        """Starts it and waits until it is ready.

        Raises:
            PromiseBroken: it is not.
        """
        process = self.spawn()
        deadline = time.monotonic() + START_S
        while not self._ready_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise PromiseBroken(f"the server did not start: {self.log_tail()}")
            time.sleep(0.05)
        self._counts = {role: len(found) for role, found in self.processes().items()}

    def has_started(self) -> bool:
        """Whether the first canaries were answered."""
        return self._ready_file.exists()

    def stop(self) -> int | None:
        """Asks it to stop, kills what does not; its exit status, None if it had to be killed."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        tree = [process.pid, *(each.pid for each in _descendants(process.pid))]
        for pid in tree:
            _signal(pid, signal.SIGCONT)
        process.terminate()
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            for pid in tree:
                _signal(pid, signal.SIGKILL)
            process.wait()
            return None
        finally:
            self._ready_file.unlink(missing_ok=True)

    @property
    def alive(self) -> bool:
        """Whether the supervisor runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """The supervisor's."""
        if self.process is None:
            raise PromiseBroken("the server has ended")
        return self.process.pid

    @property
    def url(self) -> str:
        """Of gRPC."""
        return f"127.0.0.1:{self.ports['grpc']}"

    def log_tail(self, lines: int = 12) -> str:
        """The end of what it has written."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def health(self, path: str = "ready", timeout_s: float = 5.0) -> tuple[int, dict[str, Any]]:
        """HTTP status and content of ``/health/ready``; status 0 if there is no answer."""
        url = f"http://127.0.0.1:{self.ports['health']}/health/{path}"
        try:
            with urllib.request.urlopen(url, timeout=timeout_s) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError as error:
            return 0, {"reason": str(error)}

    def is_ready(self) -> bool:
        """Whether probes get 200."""
        return self.health()[0] == 200

    def canary(self, timeout_s: float = 10.0) -> None:
        """Asks for tiny pictures, so that every model is needed.

        Raises:
            CanaryError: one was not answered.
        """
        server = Connection(self.url, access.headers(None))
        for controlnet in (None, "controlnet"):
            run_canary(server, Canary(PIPELINE, controlnet), timeout_s)

    def processes(self) -> dict[str, list[psutil.Process]]:
        """The living processes by role: ``supervisor``, ``reaper``, ``tritonserver``, and the
        Python models by their names."""
        found: dict[str, list[psutil.Process]] = {}
        for name, process in self._living():
            role = model_of(name) if re.search(r"(_\d+){2}$", name) else name
            found.setdefault(role, []).append(process)
            self._roles[process.pid] = role  # the last: a shell may have become it
        return found

    def pids(self) -> dict[str, int]:
        """The same, each Python model's by the name of its instance."""
        return {name: process.pid for name, process in self._living()}

    def stubs(self) -> dict[str, int]:
        """Those of Python models alone: process id by instance."""
        return model_processes(self.pid)

    def _living(self) -> Iterator[tuple[str, psutil.Process]]:
        yield "supervisor", psutil.Process(self.pid)
        for process in _descendants(self.pid):
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    command = process.cmdline()
                    if not command:  # it is just ending
                        continue
                    self._shm_prefixes.update(_SHM_PREFIX.findall(" ".join(command)))
                    yield _name(command), process

    def one(self, role: str) -> psutil.Process:
        """The first process of this role.

        Raises:
            PromiseBroken: there is none.
        """
        found = self.processes().get(role)
        if not found:
            raise PromiseBroken(f"no process {role}")
        return found[0]

    def state_folder(self) -> Path | None:
        """Where the models of the server that runs now write their heartbeats and statuses."""
        for processes in self.processes().values():
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    if environment.STATE in (variables := process.environ()):
                        return Path(variables[environment.STATE])
        return None

    def engine(self) -> EngineStatus | None:
        """The step engine's last status."""
        folder = self.state_folder()
        return None if folder is None else read_engine(folder)

    def wait_healthy(self) -> None:
        """Waits until the supervisor no longer takes the next end of the server for a loop of
        crashes, in which it pauses before it starts it again."""
        ready_s = time.time() - float(self.health()[1]["since"])
        time.sleep(max(0.0, HEALTHY_S + 1.0 - ready_s))

    def mended(self) -> int:
        """How many times something was loaded or started again; −1 if probes get no answer."""
        state = self.health()[1]
        return int(state["restarts"]) + int(state["reloads"]) if "restarts" in state else -1

    def wait_found(self, mended_before: int, limit_s: float = START_S) -> float:
        """Seconds until the supervisor begins to mend something.

        Raises:
            PromiseBroken: not within the limit.
        """
        begun = time.monotonic()
        while time.monotonic() - begun < limit_s:
            if self.mended() > mended_before:
                return time.monotonic() - begun
            time.sleep(0.05)
        raise PromiseBroken(f"not found within {limit_s:g} s\n{self.log_tail()}")

    def wait_back(self, gone: psutil.Process | None = None, limit_s: float = START_S) -> float:
        """Seconds until probes get 200 and the canary is answered, and, where a
        process was hit, another one has its place.

        Raises:
            PromiseBroken: not within the limit.
        """
        begun = time.monotonic()
        seen = ""
        while (waited_s := time.monotonic() - begun) < limit_s:
            processes = self.processes()
            status, state = self.health()
            seen = f"health {status}: {state.get('reason')}"
            if gone is not None and not self._replaced(gone, processes):
                seen = f"process {gone.pid} was not replaced"
            elif status == 200:
                try:
                    self.canary(3.0)
                    return waited_s
                except CanaryError as error:
                    seen = str(error)
            time.sleep(0.1)
        raise PromiseBroken(f"not back within {limit_s:g} s: {seen}\n{self.log_tail()}")

    def _replaced(
        self, gone: psutil.Process, processes: Mapping[str, Sequence[psutil.Process]]
    ) -> bool:
        """Whether there are as many processes of its role as there were, without it."""
        role = self._roles[gone.pid]
        now = {process.pid for process in processes.get(role, ())}
        return gone.pid not in now and len(now) >= self._counts[role]

    def leftovers(self) -> set[str]:
        """What servers have left behind: temporary folders and shared memory that no process of
        the tree names, and processes outside the tree."""
        tree = {self.pid, *(each.pid for each in _descendants(self.pid))} if self.alive else set()
        left: set[str] = set()
        own, everything = "", ""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())
                everything += command
                if process.pid in tree:
                    own += command
                elif str(self.temporary) in command:
                    left.add(f"{process.pid} {command[:200]}")
        left.update(str(path) for path in self.temporary.iterdir() if str(path) not in own)
        for prefix in self._shm_prefixes:
            if prefix not in everything:
                left.update(str(path) for path in _SHARED_MEMORY.glob(f"{prefix}*"))
        return left


def link_pipeline(repository: Path, folder: Path) -> Path:
    """Makes the folder, with the pipeline ``sd15`` of a repository alone."""
    folder.mkdir()
    for path in repository.glob(f"{PIPELINE}_*"):
        (folder / path.name).symlink_to(path.resolve())
    shutil.copy(repository / f"{PIPELINE}.pipeline.json", folder)
    return folder


@contextlib.contextmanager
def serve(repository: Path, folder: Path, *options: str) -> Iterator[Supervised]:
    """Serves the pipeline ``sd15`` and its ControlNet until the end.

    Args:
        repository: with the compiled pipeline, among others.
        folder: for the server's log and what else it needs; empty.
        options: of ``serving serve``.

    Raises:
        PromiseBroken: it did not start, or did not stop as it should.
    """
    link_pipeline(repository, folder / "pipelines")
    server = Supervised(Setup(folder / "pipelines", options), folder)
    server.start()
    try:
        yield server
    finally:
        status = server.stop()
    if status != 0:
        raise PromiseBroken(f"the server ended with {status}: {server.log_tail()}")


def _name(command: Sequence[str]) -> str:
    """What a process is: of a Python model's the instance."""
    name = Path(command[0]).name
    if name == STUB_NAME and len(command) > 2:
        return command[-2]
    return "reaper" if "serving.reaper" in command else name


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
