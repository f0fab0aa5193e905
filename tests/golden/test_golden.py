"""Every golden case that the service can run, through the engine and through the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.server import EmbeddedServer
from tests.conftest import GOLDEN
from tests.golden.cases import find, read
from tests.golden.runners import EngineRunner, Runner, ServerRunner
from tests.golden.verdict import judge

CASES = find(GOLDEN, ())


@pytest.fixture(scope="module")
def engine_runner(repository: Path) -> Runner:
    return EngineRunner(repository)


@pytest.fixture(scope="module")
def server_runner(full_server: EmbeddedServer) -> Iterator[Runner]:
    runner = ServerRunner(full_server.grpc_url)
    yield runner
    runner.close()


def test_there_are_cases() -> None:
    assert len(CASES) >= 160


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_through_the_engine(path: Path, engine_runner: Runner) -> None:
    case = read(path)
    verdict = judge(case, engine_runner.run(case))
    assert verdict.passed, verdict


@pytest.mark.server
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_through_the_server(path: Path, server_runner: Runner) -> None:
    case = read(path)
    verdict = judge(case, server_runner.run(case))
    assert verdict.passed, verdict
