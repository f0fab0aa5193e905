"""Faults of a whole server under supervision: found, mended, and nothing left behind."""

from __future__ import annotations

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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from segs_client import Client, Segs, ServerUnavailable
from serving.process import model_processes

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("no_traces")]

PICTURE = np.full((64, 64, 3), 128, np.uint8)
FOUND_S = 10.0
"""Within this a fault has to be found."""
BACK_S = 60.0
"""Within this the server has to be back; these machines are small and shared."""


@dataclass
class Supervised:
    """``python -m serving serve``, its ports and what its health port says."""

    process: subprocess.Popen[bytes]
    ready_file: Path
    health_url: str

    @property
    def url(self) -> str:
        return f"127.0.0.1:{json.loads(self.ready_file.read_text())['grpc_port']}"

    def health(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self.health_url}/health/ready", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            found = json.load(error)
        return found

    def wait(self, what: Callable[[dict[str, Any]], bool], limit_s: float) -> float:
        """Waits until the health says so; returns the seconds."""
        begun = time.monotonic()
        while time.monotonic() - begun < limit_s:
            if what(self.health()):
                return time.monotonic() - begun
            time.sleep(0.05)
        pytest.fail(f"not within {limit_s:g} s; health: {self.health()}")

    def stub(self, model: str) -> psutil.Process:
        """The process of one of the Python models."""
        found = model_processes(self.process.pid)
        return psutil.Process(next(pid for name, pid in found.items() if model in name))

    def ask(self, steps: int = 1) -> list[str]:
        """The statuses of a small request's SEGs."""
        segs = Segs.from_boxes([(8, 8, 56, 56)], size=(64, 64))
        with Client(self.url, pipeline="sd15") as client:
            result = client.detail(PICTURE, segs, steps=steps, guide_size=64, max_size=64)
        return [seg.status for seg in result.report.segs]


@contextmanager
def supervise(repository: Path, folder: Path, *options: str) -> Iterator[Supervised]:
    """Serves the pipeline ``sd15`` until the end, when it is stopped if it is not yet."""
    pipelines = folder / "pipelines"
    pipelines.mkdir()
    for path in repository.glob("sd15_*"):
        (pipelines / path.name).symlink_to(path)
    shutil.copy(repository / "sd15.pipeline.json", pipelines)
    ready_file, log = folder / "ready.json", folder / "log"
    command = [sys.executable, "-m", "serving", "serve", "--grpc-port", "0", "--health-port", "0"]
    command += ["--repository", str(pipelines), "--ready-file", str(ready_file), *options]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file)
    deadline = time.monotonic() + BACK_S
    while not ready_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(log.read_text())
        time.sleep(0.05)
    told = re.search(r"http://[0-9.:]+", log.read_text())
    assert told is not None
    try:
        yield Supervised(process, ready_file, told[0])
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def supervised(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    with supervise(repository, tmp_path_factory.mktemp("supervised")) as running:
        yield running


@pytest.mark.parametrize(
    ("model", "number"),
    [
        ("sample", signal.SIGKILL),
        ("sample", signal.SIGSTOP),
        ("sd15_unet", signal.SIGSTOP),
        ("prepare", signal.SIGSTOP),
    ],
)
def test_a_dead_or_hanging_model_is_found_and_mended(
    supervised: Supervised, model: str, number: signal.Signals
) -> None:
    assert supervised.ask() == ["enhanced"]
    health = supervised.health()
    before = health["restarts"] + health["reloads"]
    os.kill(supervised.stub(model).pid, number)
    found_s = supervised.wait(lambda told: told["restarts"] + told["reloads"] > before, FOUND_S)
    assert model in supervised.health()["last_failure"] or model == "sample"
    back_s = supervised.wait(lambda told: bool(told["ready"]), BACK_S)
    assert supervised.ask() == ["enhanced"]
    sys.stderr.write(f"{model} {number.name}: found {found_s:.1f} s, back {back_s:.1f} s\n")


def test_a_stop_lets_requests_end_and_nobody_in(repository: Path, tmp_path: Path) -> None:
    with (
        supervise(repository, tmp_path, "--drain-timeout", "120") as running,
        ThreadPoolExecutor(4) as pool,
    ):
        under_way = [pool.submit(running.ask, 1000) for _ in range(3)]
        time.sleep(1.5)
        running.process.send_signal(signal.SIGTERM)
        running.wait(lambda told: told["reason"] == "stopping", 5)
        time.sleep(1.5)
        assert not any(request.done() for request in under_way)
        with pytest.raises(ServerUnavailable, match="the server is stopping"):
            running.ask()
        assert [request.result(120) for request in under_way] == [["enhanced"]] * 3
        assert running.process.wait(30) == 0


def test_what_does_not_end_in_time_is_to_be_sent_again(repository: Path, tmp_path: Path) -> None:
    with (
        supervise(repository, tmp_path, "--drain-timeout", "1") as running,
        ThreadPoolExecutor(4) as pool,
    ):
        under_way = [pool.submit(running.ask, 9000) for _ in range(3)]
        time.sleep(1.5)
        running.process.send_signal(signal.SIGTERM)
        for request in under_way:
            with pytest.raises(ServerUnavailable, match="the server is stopping"):
                request.result(30)
        assert running.process.wait(30) == 0
