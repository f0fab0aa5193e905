"""Two ways to run a case: the engine in this process, or the real server over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from preprocessing.prepare import RequestTensors
from runners.in_process import LocalDetailer
from segs_client import Client
from segs_client.messages import DetailResult, build, parse
from serving.server import EmbeddedServer
from tests.golden.cases import Case


class Runner(Protocol):
    """Runs cases on the pipelines that they name."""

    def run(self, case: Case) -> DetailResult: ...

    def close(self) -> None: ...


@contextmanager
def served(repository: Path) -> Iterator[ServerRunner]:
    """A real server of the repository, and what asks it."""
    with EmbeddedServer([repository]) as running:
        runner = ServerRunner(running.grpc_url)
        try:
            yield runner
        finally:
            runner.close()


class EngineRunner:
    """All of the service but Triton."""

    def __init__(self, repository: Path) -> None:
        self._detailer = LocalDetailer([repository])

    def run(self, case: Case) -> DetailResult:
        built = build(case.image, case.segs, pipeline=case.pipeline, **case.options)
        inputs = RequestTensors(
            built.request.model_dump_json().encode(),
            built.image,
            built.masks,
            built.seg_images,
            built.control_images,
        )
        done = self._detailer.detail(inputs)
        report = done.report.model_dump_json()
        return parse(built, report, done.image, done.seg_images, done.control_images)

    def close(self) -> None:
        """Nothing is open."""


class ServerRunner:
    """A real tritonserver, asked by the client."""

    def __init__(self, url: str) -> None:
        self._client = Client(url)

    def run(self, case: Case) -> DetailResult:
        return self._client.detail(case.image, case.segs, pipeline=case.pipeline, **case.options)

    def close(self) -> None:
        self._client.close()
