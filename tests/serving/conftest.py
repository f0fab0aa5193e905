"""Fixtures: a toy repository, one server for the tests that only ask it, and a look for traces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving.server import EmbeddedServer
from tests.serving import toys
from tests.waiting import wait_until


def _owner(path: Path) -> str:
    """What a reaper's command line has of a path: a shared memory's prefix, a folder's name."""
    return path.name.partition("-")[0] + "-" if path.parent.name == "shm" else path.name


def _traces() -> set[str]:
    """Shared memory, temporary folders and processes of servers that no living reaper looks after,
    whose command line names both the server's shared memory and its folder."""
    commands = {
        process.pid: " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline"])
    }
    reapers = " ".join(command for command in commands.values() if "serving.reaper" in command)
    found = {
        str(path)
        for path in (*Path("/dev/shm").glob("segs*"), *Path("/tmp").glob("segs-detailer-*"))
        if _owner(path) not in reapers
    }
    for pid, command in commands.items():
        workspace = re.search(r"/segs-detailer-[^/]+(?=/backends)", command)
        if workspace is not None and workspace[0] not in reapers:
            found.add(f"{pid} {command}")
    return found


@pytest.fixture
def no_traces() -> Iterator[None]:
    """Compares processes, shared memory and temporary folders before and after the test. Those of
    servers that other tests start or stop just then are soon not there any more."""
    before = _traces()
    yield
    wait_until(lambda: _traces() <= before)


@pytest.fixture(scope="session")
def toy_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models ``double`` (onnxruntime) and ``echo`` (python)."""
    repository = tmp_path_factory.mktemp("models")
    toys.add_double(repository)
    toys.add_echo(repository)
    return repository


@pytest.fixture(scope="module")
def server(toy_repository: Path) -> Iterator[EmbeddedServer]:
    """A running server of the toy models."""
    with EmbeddedServer(model_repository=toy_repository, start_timeout_s=60) as running:
        yield running
