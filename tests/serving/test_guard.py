"""What a server that ends removes, and what it leaves to others."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.guard import remove_leftovers


@pytest.fixture
def environment() -> Iterator[Path]:
    """A folder as the Python backend makes at start."""
    path = Path(tempfile.mkdtemp(prefix="python_env_", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that is called as a server is."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    command = tmp_path / "tritonserver"
    shutil.copy(sleep, command)
    with subprocess.Popen([str(command), "60"]) as process:
        yield process
        process.kill()


def _remove(folder: Path) -> None:
    remove_leftovers("segs0test-", folder / "workspace", time.time())


def test_its_folder_goes_and_a_running_servers_stays(
    tmp_path: Path, environment: Path, neighbour: subprocess.Popen[bytes]
) -> None:
    _remove(tmp_path)
    assert environment.exists()
    neighbour.kill()
    neighbour.wait()
    # Real servers that other tests may have started at this moment keep it too.
    for _ in range(30):
        _remove(tmp_path)
        if not environment.exists():
            return
        time.sleep(1)
        environment.touch()
    pytest.fail("the folder is still there")


def test_an_older_folder_is_not_its_own(tmp_path: Path, environment: Path) -> None:
    remove_leftovers("segs0test-", tmp_path / "workspace", time.time() + 60)
    assert environment.exists()
