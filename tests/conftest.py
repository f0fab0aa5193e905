"""What many tests share: the tiny pipeline, compiled once, and a real server that runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from build_engines import build
from serving.server import EmbeddedServer

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "golden"
CHECKPOINTS = DATA / "checkpoints"


@pytest.fixture(scope="session")
def repository() -> Path:
    """A folder with the pipeline ``sd15``; kept between runs, built again when out of date."""
    folder = Path(__file__).parent.parent / "build" / "tests"
    build(CHECKPOINTS / "sd15", "sd15", folder)
    return folder


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[EmbeddedServer]:
    """A real tritonserver with that pipeline."""
    with EmbeddedServer([repository], log_level="DEBUG") as running:
        yield running
