"""What a server that ends removes, what it leaves to others, and what the next one removes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving import leftovers
from serving.leftovers import Belongings, remove_abandoned

PREFIX = "segs0000000000ff-"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the Python backend makes at start, where no other server looks."""
    monkeypatch.setattr(leftovers, "_PLAIN", tmp_path)
    path = tmp_path / "python_env_new"
    path.mkdir()
    return path


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


@pytest.fixture
def shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the real one."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(leftovers, "SHARED_MEMORY", folder)
    return folder


def _begun_at(folder: Path, begun_s: float) -> Belongings:
    return Belongings(PREFIX, str(folder / "segs-detailer-test"), begun_s)


def test_its_folder_goes_and_a_running_servers_stays(
    tmp_path: Path,
    environment: Path,
    neighbour: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = psutil.process_iter

    def only_neighbour(*arguments: Any) -> list[psutil.Process]:
        """Of all servers; others may be running."""
        return [each for each in find(*arguments) if each.pid == neighbour.pid]

    monkeypatch.setattr(psutil, "process_iter", only_neighbour)
    _begun_at(tmp_path, time.time()).remove()
    assert environment.exists()
    neighbour.kill()
    neighbour.wait()
    _begun_at(tmp_path, time.time()).remove()
    assert not environment.exists()


def test_an_older_folder_is_not_its_own(tmp_path: Path, environment: Path) -> None:
    _begun_at(tmp_path, time.time() + 60).remove()
    assert environment.exists()


def test_what_nobody_holds_is_the_next_servers_to_remove(shared_memory: Path) -> None:
    (server, first), (other, second) = Belongings.make(), Belongings.make()
    region = shared_memory / f"{server.shm_prefix}region"
    region.touch()
    remove_abandoned()
    assert region.exists()
    os.close(first)
    remove_abandoned()
    assert {path.name for path in shared_memory.iterdir()} == {
        f"{other.shm_prefix}state",
        f"{other.shm_prefix}owner",
    }
    assert not Path(server.workspace).exists()
    assert Path(other.workspace).is_dir()
    os.close(second)
    other.remove()
    assert list(shared_memory.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"workspace": "/"}', "symlink", "folder", "another's prefix", "any folder"],
)
def test_what_no_server_has_written_stays(shared_memory: Path, tmp_path: Path, text: str) -> None:
    folder = tmp_path / ("documents" if text == "any folder" else "segs-detailer-test")
    folder.mkdir()
    owner = shared_memory / f"{PREFIX}owner"
    written = json.dumps(vars(Belongings(PREFIX, str(folder), 0.0)))
    if text == "symlink":
        (tmp_path / "elsewhere").write_text(written)
        owner.symlink_to(tmp_path / "elsewhere")
    elif text == "folder":
        owner.mkdir()
    elif text == "another's prefix":
        owner.write_text(written.replace(PREFIX, "segs0123456789ab-"))
    else:
        owner.write_text(written if text == "any folder" else text)
    (shared_memory / f"{PREFIX}region").touch()
    (shared_memory / "segs0123456789ab-region").touch()
    open_before = psutil.Process().num_fds()
    remove_abandoned()
    assert psutil.Process().num_fds() == open_before
    assert folder.is_dir()
    assert len(list(shared_memory.iterdir())) == 3


def test_what_cannot_be_removed_is_told_and_keeps_nothing_else(
    shared_memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, owner = Belongings.make()
    os.close(owner)
    (shared_memory / f"{server.shm_prefix}a").mkdir()
    (shared_memory / f"{server.shm_prefix}b").touch()
    server.remove()
    assert [path.name for path in shared_memory.iterdir()] == [f"{server.shm_prefix}a"]
    assert "a cannot be removed: Is a directory" in caplog.text


def test_without_room_nothing_stays(
    shared_memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(leftovers, "SHARED_MEMORY", tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        Belongings.make()
    assert list(tmp_path.iterdir()) == [shared_memory]


@pytest.mark.parametrize(
    "fields",
    [
        ("", "/tmp/segs-detailer-a"),
        ("segs-", "/tmp/segs-detailer-a"),
        (PREFIX, "segs-detailer-a"),
        (PREFIX, "/tmp"),
    ],
)
def test_nothing_else_is_ever_removed(shared_memory: Path, fields: tuple[str, str]) -> None:
    (shared_memory / "another").touch()
    with pytest.raises(ValueError, match="not what a server has"):
        Belongings(*fields, 0.0).remove()
    assert (shared_memory / "another").exists()
