"""What a server has outside of its processes, and its end: by its reaper, by its starter, or by
the next server, whichever is left to do it.

Shared memory outlives the processes, and where all of a server's are killed at once (out of
memory, the whole group by its manager), no process is left to remove it; what stays would fill
``/dev/shm`` until nothing starts any more. So each server's shared memory has a file that names
all that the server has and that its reaper holds locked. The kernel ends the lock with the reaper,
also for those who look from another container; a process id would mean nothing there. (Of a
temporary folder that is not theirs they remove nothing.)
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
"""Of the file that names all."""


def is_plain(path: Path) -> bool:
    """Whether a path may be part of what Triton starts its Python models with: a command for a
    shell, in which it quotes nothing, and lists whose parts colons separate."""
    return shlex.quote(str(path)) == str(path) and os.pathsep not in str(path)


@dataclass(frozen=True)
class Belongings:
    """What one server has outside of its processes."""

    shm_prefix: str
    """Of the names of its shared memory."""
    workspace: str
    """Its temporary folder."""
    begun_s: float
    """When it was started, as ``time.time()``."""

    @classmethod
    def make(cls) -> tuple[Belongings, int]:
        """Makes the folders of a new server, and the file that names its owner.

        Returns:
            Also that file's descriptor: once no process has it open any more, all is the next
            server's to remove.

        Raises:
            OSError: there is no room for them; nothing stays.
        """
        name = f"segs{secrets.token_hex(6)}-"
        folder = Path(tempfile.gettempdir()).absolute()
        if not is_plain(folder):
            log.warning("TMPDIR is %r: Triton needs a plainer path; %s it is", str(folder), _PLAIN)
            folder = _PLAIN
        made = cls(name, tempfile.mkdtemp(prefix=_WORKSPACE, dir=folder), time.time())
        owner = -1
        try:
            # First of what can be seen in there, and locked before it has any content.
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
        """Where its models leave their signs of life: in memory, so that a full disk does not make
        them look dead."""
        return SHARED_MEMORY / f"{self.shm_prefix}state"

    @property
    def _owner(self) -> Path:
        return SHARED_MEMORY / f"{self.shm_prefix}{_OWNER}"

    def remove(self) -> None:
        """Kills the models' processes that are left, and removes shared memory and folders; what is
        missing is fine, so twice is too. What cannot be removed is logged.

        Raises:
            ValueError: no server has such; nothing was removed.
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
        for path in (*regions, self._owner):  # that last: who is killed before leaves it to others
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # of another user
                log.warning("%s cannot be removed: %s", path, error.strerror)

    def _kill_orphans(self) -> None:
        """Kills what runs out of the folder: models outlive a server killed with its reaper."""
        stub = str(Path(self.workspace) / "backends" / "python" / STUB_NAME)
        orphans = [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"]]
        orphans = [each for each in orphans if each.info["cmdline"][0] == stub]
        for process in orphans:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(orphans, timeout=2)

    def _remove_execution_environment(self) -> None:
        """Removes the empty folder that the Python backend makes in /tmp at start, for packed
        Python environments that we do not use, and that a killed server leaves behind. What may be
        another server's stays: that one would end badly without it."""
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
    """Removes what servers of this user have left that were killed together with their reaper."""
    for path in SHARED_MEMORY.glob(f"*-{_OWNER}"):
        with contextlib.suppress(OSError):  # in use, another user's, or gone meanwhile
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
    with contextlib.suppress(ValueError, TypeError):  # it is just being written, or not ours
        left = Belongings(**json.loads(os.read(owner, _MOST_BYTES)))
        if left._owner == path:
            left.remove()
            log.warning(
                "removed what a killed server had left: %s* and %s",
                SHARED_MEMORY / left.shm_prefix,
                left.workspace,
            )
