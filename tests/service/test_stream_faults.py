"""Streams while parts of the server die; on a server of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segs_client import Client, StepEvent
from serving.process import model_processes
from serving.server import EmbeddedServer
from tests.service.observed import wait_for_the_dead
from triton_models.state import model_of

pytestmark = pytest.mark.server

PICTURE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


@pytest.fixture(scope="module")
def server(sd15: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer([sd15], canary=False) as running:
        yield running


def test_a_stream_goes_on_with_the_engine_s_successor(server: EmbeddedServer) -> None:
    """It begins anew, says so, and is told the steps of the new process."""
    options: dict[str, Any] = {"guide_size": 64, "max_size": 64, "denoise": 1.0, "seed": 5}
    boxes = [(40, 30, 60, 50)]
    with Client(server.grpc_url, pipeline="sd15") as client:
        for steps in (40, 400, 4000):  # until it is under way when the engine is killed
            stream = client.stream(PICTURE, boxes, steps=steps, **options)
            assert any(isinstance(update.event, StepEvent) for update in stream)
            for instance, pid in model_processes(server.pid).items():
                if model_of(instance) == "sample":
                    os.kill(pid, signal.SIGKILL)
            server.reload(wait_for_the_dead(server))
            told = list(stream)
            names = [update.event.event for update in told]
            if "accepted" in names:
                break
        plain = client.detail(PICTURE, boxes, steps=steps, **options)
    assert names.count("accepted") == 1
    assert "step" in names[names.index("accepted") :]
    assert [update.event.seq for update in told] == list(
        range(told[0].event.seq, told[0].event.seq + len(told))
    )
    assert told[-1].result is not None
    np.testing.assert_array_equal(np.asarray(told[-1].result.image), np.asarray(plain.image))
