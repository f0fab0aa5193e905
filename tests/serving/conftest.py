"""Fixtures: a toy repository, one server for the tests that only ask it, and a look for traces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving.server import EmbeddedServer
from tests.serving import toys


def _traces() -> set[str]:
    found = {f"/dev/shm/{path.name}" for path in Path("/dev/shm").glob("segs*")}
    found |= {str(path) for path in Path("/tmp").glob("segs-detailer-*")}
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "triton_python_backend_stub" in command or "bin/tritonserver" in command:
            found.add(f"{process.pid} {command}")
    return found


@pytest.fixture
def no_traces() -> Iterator[None]:
    """Compares processes, shared memory and temporary folders before and after the test."""
    before = _traces()
    yield
    deadline = time.monotonic() + 3
    while _traces() - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _traces() - before == set()


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
