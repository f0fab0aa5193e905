"""Faults of a whole server under supervision: found, mended, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from segs_client import Client, Segs
from serving.installation import STUB_NAME

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
        for process in psutil.Process(self.process.pid).children(recursive=True):
            arguments = process.cmdline()
            if arguments and Path(arguments[0]).name == STUB_NAME and model in arguments[-2]:
                return process
        raise LookupError(model)

    def ask(self) -> None:
        segs = Segs.from_boxes([(8, 8, 56, 56)], size=(64, 64))
        with Client(self.url, pipeline="sd15") as client:
            result = client.detail(PICTURE, segs, steps=1, guide_size=64, max_size=64)
        assert [seg.status for seg in result.report.segs] == ["enhanced"]


@pytest.fixture(scope="module")
def supervised(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    folder = tmp_path_factory.mktemp("supervised")
    (folder / "pipelines").mkdir()
    descriptor = json.loads((repository / "sd15.pipeline.json").read_text())
    for path in repository.iterdir():
        if path.name.startswith("sd15_") and path.is_dir():
            (folder / "pipelines" / path.name).symlink_to(path)
    (folder / "pipelines" / "sd15.pipeline.json").write_text(json.dumps(descriptor))
    ready_file = folder / "ready.json"
    command = [sys.executable, "-m", "serving", "serve", "--grpc-port", "0"]
    command += ["--repository", str(folder / "pipelines"), "--ready-file", str(ready_file)]
    command += ["--health-port", "0"]
    log = folder / "log"
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
    yield Supervised(process, ready_file, told[0])
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


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
    supervised.ask()
    before = supervised.health()["restarts"]
    os.kill(supervised.stub(model).pid, number)
    found_s = supervised.wait(lambda told: told["restarts"] > before, FOUND_S)
    assert model in supervised.health()["last_failure"] or model == "sample"
    back_s = supervised.wait(lambda told: bool(told["ready"]), BACK_S)
    supervised.ask()
    sys.stderr.write(f"{model} {number.name}: found {found_s:.1f} s, back {back_s:.1f} s\n")
