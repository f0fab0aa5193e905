"""What many tests share: the tiny pipelines, compiled once, and a real server that runs them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from benchmarks.perf.binary import ASKED_FOR
from benchmarks.supervised import link_pipeline
from build_engines import TargetOptions, build
from serving.server import EmbeddedServer
from tests.golden.cases import ZERO_SNR
from tests.golden.pipelines import checkpoint_folder
from triton_models import environment

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "golden"
CHECKPOINTS = DATA / "checkpoints"
PIPELINES = ("sd15", "sd15-inpaint", "sd15-v", "sd15-refiner", "sdxl", "sdxl-refiner")
"""Each named as its checkpoint."""
WITH_ZERO_SNR = f"sd15-v{ZERO_SNR}"
"""``sd15-v`` read as a checkpoint with zero terminal SNR."""
CONTROLNET = "controlnet"
"""The ControlNet of ``sd15``, and its folder."""


FULL_SERVER = ("golden/test_golden.py", "fuzz/test_server.py", "service/test_features.py")
"""Files whose server has all pipelines."""


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
    """Gives all tests of a file to one worker, which makes what they share once, in their order.

    (The groups of xdist 3.8 are not seen by pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        path, _, name = nodeid.partition("::")
        if name.startswith("test_through_the_engine"):
            return nodeid  # quick, and many
        if path.endswith(FULL_SERVER):
            return "full_server"
        if path.endswith("faults/test_short.py"):
            return name.partition("/")[0]
        return path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    """Where there are several workers."""
    config.option.loadscopereorder = False
    return Scheduler(config, log)


def pytest_collection_finish() -> None:
    """Garbage collections leave out what all modules hold, a million objects; builds make many."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many cases were run."""
    outcomes = ("passed", "failed", "skipped", "error")
    cases = sum(len(terminalreporter.getreports(outcome)) for outcome in outcomes)
    chosen = terminalreporter.config.getoption("markexpr") or "all"
    terminalreporter.write_line(f"{cases} cases of: {chosen}")


def build_pipelines(names: Iterable[str] = (*PIPELINES, WITH_ZERO_SNR)) -> Path:
    """A folder with these pipelines; kept between runs, built again when out of date."""
    folder = Path(__file__).parent.parent / "build" / "tests"
    names = list(names)
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw1":  # each builds what the others have not
        names.reverse()
    for name in names:
        controlnets = {CONTROLNET: CHECKPOINTS / CONTROLNET} if name == "sd15" else {}
        with checkpoint_folder(CHECKPOINTS, name) as checkpoint:
            build(checkpoint, name, folder, controlnets=controlnets)
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """A folder with all :data:`PIPELINES`, and :data:`WITH_ZERO_SNR`."""
    return build_pipelines()


@pytest.fixture(scope="session")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pipeline ``sd15`` alone."""
    return link_pipeline(build_pipelines(["sd15"]), tmp_path_factory.mktemp("sd15") / "pipelines")


@pytest.fixture(scope="session")
def torch_repository() -> Path:
    """A folder with the pipeline ``sd15`` and its ControlNet for torch; kept between runs."""
    folder = Path(__file__).parent.parent / "build" / "tests_torch"
    controlnets = {CONTROLNET: CHECKPOINTS / CONTROLNET}
    build(CHECKPOINTS / "sd15", "sd15", folder, TargetOptions("torch"), controlnets)
    return folder


@pytest.fixture
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process's folder of heartbeats and statuses, as a supervisor names it."""
    monkeypatch.setenv(environment.STATE, str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def full_server(repository: Path) -> Iterator[EmbeddedServer]:
    """A real tritonserver with all of ``repository``."""
    with EmbeddedServer([repository], open_protocols=ASKED_FOR) as running:
        yield running


@pytest.fixture(scope="session")
def server(sd15: Path) -> Iterator[EmbeddedServer]:
    """A real tritonserver with one pipeline, to be measured too."""
    with EmbeddedServer([sd15], open_protocols=ASKED_FOR, metrics_port=0) as running:
        yield running
