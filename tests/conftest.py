"""What many tests share: the tiny pipelines, compiled once, and a real server that runs them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from benchmarks.perf.binary import ASKED_FOR
from build_engines import TargetOptions, build
from serving.server import EmbeddedServer
from triton_models import environment

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "golden"
CHECKPOINTS = DATA / "checkpoints"
PIPELINES = ("sd15", "sd15-inpaint", "sd15-v", "sd15-refiner", "sdxl", "sdxl-refiner")
"""Each named as its checkpoint."""
CONTROLNET = "controlnet"
"""The ControlNet of ``sd15``, and its folder."""


def build_pipelines(names: Iterable[str] = PIPELINES) -> Path:
    """A folder with these pipelines; kept between runs, built again when out of date."""
    folder = Path(__file__).parent.parent / "build" / "tests"
    for name in names:
        controlnets = {CONTROLNET: CHECKPOINTS / CONTROLNET} if name == "sd15" else {}
        build(CHECKPOINTS / name, name, folder, controlnets=controlnets)
    return folder


def pick_pipeline(repository: Path, folder: Path, name: str = "sd15") -> Path:
    """Makes the folder, with this pipeline of a repository alone: a server of it starts sooner."""
    folder.mkdir()
    for path in repository.glob(f"{name}_*"):
        (folder / path.name).symlink_to(path.resolve())
    shutil.copy(repository / f"{name}.pipeline.json", folder)
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """A folder with all :data:`PIPELINES`."""
    return build_pipelines()


@pytest.fixture(scope="session")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pipeline ``sd15`` alone."""
    return pick_pipeline(build_pipelines(["sd15"]), tmp_path_factory.mktemp("sd15") / "pipelines")


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
def server(repository: Path) -> Iterator[EmbeddedServer]:
    """A real tritonserver with those pipelines, to be measured too."""
    with EmbeddedServer([repository], open_protocols=ASKED_FOR, metrics_port=0) as running:
        yield running
