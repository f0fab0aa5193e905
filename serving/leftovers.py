"""A server's shared memory and temporary folder, which are removed by its reaper, by its starter,
or by the next server.

Shared memory outlives the processes. If all processes of a server are killed at once (out of
memory, or their group by a service manager), none is left to remove it, and ``/dev/shm`` would fill
up. So each server's shared memory has a file that lists the server's resources and that its reaper
keeps locked. The kernel releases the lock with the reaper, also for servers in other containers,
where a process id has no meaning. (Temporary folders of other users are not removed.)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import shlex
import shutil
import stat
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from serving.installation import STUB_NAME

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
_PREFIX = re.compile(r"segs[0-9a-f]{12}-")
_WORKSPACE = "segs-detailer-"
_OWNER = "owner"
_PLAIN = Path("/tmp")
_MOST_BYTES = 4096
"""Size limit of the file that lists the resources."""


def is_plain(path: Path) -> bool:
    """Whether a path may be in the command of Triton's Python models: Triton runs it in a shell
    without quotes, and separates lists by colons."""
    return shlex.quote(str(path)) == str(path) and os.pathsep not in str(path)


@dataclass(frozen=True)
class Belongings:
    """The resources of one server outside its processes."""

    shm_prefix: str
    """Prefix of the names of its shared memory."""
    workspace: str
    """Its temporary folder."""
    begun_s: float
    """``time.time()`` of its start."""

    @classmethod
    def make(cls) -> tuple[Belongings, int]:
        """Creates the folders of a new server and the file that lists them.

        Returns:
            Also the file's descriptor: once no process has it open, the next server removes
            everything.

        Raises:
            OSError: they cannot be created; nothing is left.
        """
        name = f"segs{secrets.token_hex(6)}-"
        folder = Path(tempfile.gettempdir()).absolute()
        if not is_plain(folder):
            log.warning("TMPDIR is %r: Triton needs a plainer path; %s it is", str(folder), _PLAIN)
            folder = _PLAIN
        made = cls(name, tempfile.mkdtemp(prefix=_WORKSPACE, dir=folder), time.time())
        owner = -1
        try:
            # Created before the other files, and locked before it has any content.
            owner = os.open(made._owner, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(owner, fcntl.LOCK_EX)
            os.write(owner, json.dumps(asdict(made)).encode())
            made.state.mkdir(0o700)
        except OSError:
            made.remove()
            if owner >= 0:
                os.close(owner)
            raise
        return made, owner

    @property
    def state(self) -> Path:
        """The folder of its models' heartbeats: in memory, so that a full disk does not make them
        look dead."""
        return SHARED_MEMORY / f"{self.shm_prefix}state"

    @property
    def _owner(self) -> Path:
        return SHARED_MEMORY / f"{self.shm_prefix}{_OWNER}"

    def remove(self) -> None:
        """Kills remaining model processes, and removes shared memory and folders. May be called
        again. Failures are logged.

        Raises:
            ValueError: these are not the resources of a server; nothing was removed.
        """
        workspace = Path(self.workspace)
        is_ours = workspace.is_absolute() and workspace.name.startswith(_WORKSPACE)
        if not is_ours or not _PREFIX.fullmatch(self.shm_prefix):
            raise ValueError(f"not what a server has: {self}")
        self._kill_orphans()
        self._remove_execution_environment()
        shutil.rmtree(self.state, ignore_errors=True)
        shutil.rmtree(workspace, ignore_errors=True)
        regions = set(SHARED_MEMORY.glob(f"{self.shm_prefix}*")) - {self._owner}
        for path in (*regions, self._owner):  # the owner last, in case this is interrupted
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # of another user
                log.warning("%s cannot be removed: %s", path, error.strerror)

    def _kill_orphans(self) -> None:
        """Kills processes that run from the folder: models outlive a server killed with its
        reaper."""
        stub = str(Path(self.workspace) / "backends" / "python" / STUB_NAME)
        orphans = [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"]]
        orphans = [each for each in orphans if each.info["cmdline"][0] == stub]
        for process in orphans:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(orphans, timeout=2)

    def _remove_execution_environment(self) -> None:
        """Removes the empty folder in /tmp that the Python backend creates at start for packed
        Python environments, which are not used here. A killed server leaves it. A folder that may
        belong to another server is kept, since that server needs it."""
        living = psutil.process_iter(["name", "create_time"])
        others_s = [
            each.info["create_time"] for each in living if each.info["name"] == "tritonserver"
        ]
        for path in _PLAIN.glob("python_env_*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                made_s = status.st_mtime
                if status.st_uid != os.getuid():
                    continue
                if any(_made_soon(made_s, at_s) for at_s in others_s):
                    continue
                if _made_soon(made_s, self.begun_s):
                    path.rmdir()


def _made_soon(made_s: float, after_s: float) -> bool:
    return after_s - 1 <= made_s < after_s + 10


def remove_abandoned() -> None:
    """Removes the resources of this user's servers that were killed together with their reaper."""
    for path in SHARED_MEMORY.glob(f"*-{_OWNER}"):
        with contextlib.suppress(OSError):  # in use, another user's, or removed meanwhile
            owner = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                _remove_left(path, owner)
            finally:
                os.close(owner)


def _remove_left(path: Path, owner: int) -> None:
    """
    Raises:
        OSError: the file is locked.
    """
    status = os.fstat(owner)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
        return
    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with contextlib.suppress(ValueError, TypeError):  # being written, or another file
        left = Belongings(**json.loads(os.read(owner, _MOST_BYTES)))
        if left._owner == path:
            left.remove()
            log.warning(
                "removed what a killed server had left: %s* and %s",
                SHARED_MEMORY / left.shm_prefix,
                left.workspace,
            )
