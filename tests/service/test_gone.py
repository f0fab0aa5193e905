"""Clients that are gone or late: the engine drops the request's SEGs, the others go on."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from segs_client import transport
from segs_client.contract import MODEL_NAME, ErrorDetail
from segs_client.messages import build
from serving.server import EmbeddedServer

pytestmark = pytest.mark.server

PICTURE = np.full((96, 128, 3), 128, np.uint8)
BOX = (40, 30, 60, 50)
DROPPED_S = 0.5
"""From the client's end until the engine runs no batch for it: it is looked for every 50 ms."""


def arguments(steps: int) -> dict[str, Any]:
    """Of tritonclient's ``infer``; the time-out is far off."""
    options = {"guide_size": 64, "max_size": 64, "denoise": 1.0}
    built = build(PICTURE, [BOX], pipeline="sd15", steps=steps, **options)
    return transport.infer_arguments(built, "gone", 300.0)


@pytest.fixture
def triton(server: EmbeddedServer) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc_url) as client:
        yield client


def batches(server: EmbeddedServer) -> list[str]:
    return re.findall(r"batch network=\S+ rows=\d+ calls=\d+ requests=\d+ ms=\S+", server.tail(500))


def wait_until(what: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_at_work(server: EmbeddedServer) -> None:
    last = batches(server)[-4:]
    wait_until(lambda: batches(server)[-4:] != last)


def assert_idle(server: EmbeddedServer) -> None:
    """No batch runs any more, and soon the engine reports no request."""
    time.sleep(DROPPED_S)
    last = batches(server)[-4:]
    time.sleep(0.5)
    assert batches(server)[-4:] == last
    wait_until(lambda: (state := server.engine_state()) is not None and state.requests == 0, 3)


def test_a_cancelled_request_is_dropped(
    server: EmbeddedServer, triton: InferenceServerClient
) -> None:
    told: list[Any] = []
    call = triton.async_infer(
        **arguments(9000), callback=lambda result, error: told.append((result, error))
    )
    wait_at_work(server)
    call.cancel()
    assert_idle(server)
    (answer,) = told
    assert "CANCELLED" in str(answer[1].status())


def test_a_client_that_has_died_is_noticed(server: EmbeddedServer, tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text(
        "import sys; import numpy as np; from segs_client import Client\n"
        "with Client(sys.argv[1], pipeline='sd15') as client:\n"
        f"    client.detail(np.full((96, 128, 3), 128, np.uint8), [{BOX}], steps=9000,"
        " guide_size=64, max_size=64, denoise=1.0)\n"
    )
    client = subprocess.Popen([sys.executable, str(script), server.grpc_url])
    wait_at_work(server)
    client.send_signal(signal.SIGKILL)
    client.wait()
    assert_idle(server)


def test_the_deadline_of_grpc_alone_bounds_the_work(
    server: EmbeddedServer, triton: InferenceServerClient
) -> None:
    given = {**arguments(9000), "client_timeout": 1.0}
    del given["timeout"]
    with pytest.raises(InferenceServerException, match="Deadline"):
        triton.infer(**given)
    assert_idle(server)


def test_the_requests_own_time_bounds_the_work(
    server: EmbeddedServer, triton: InferenceServerClient
) -> None:
    begun = time.monotonic()
    with pytest.raises(InferenceServerException) as refused:
        triton.infer(**{**arguments(9000), "timeout": 700_000})
    assert time.monotonic() - begun < 0.7 + DROPPED_S
    detail = ErrorDetail.from_status_message(refused.value.message())
    assert detail is not None
    assert (detail.code, detail.request_id) == ("DEADLINE_EXCEEDED", "gone")
    assert_idle(server)


def test_batches_shrink_and_the_others_go_on(
    server: EmbeddedServer, triton: InferenceServerClient
) -> None:
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(triton.infer, **arguments(1500))
        call = triton.async_infer(**arguments(9000), callback=lambda result, error: None)
        wait_until(lambda: bool(re.search("unet.*requests=2", "\n".join(batches(server)[-3:]))))
        call.cancel()
        wait_until(lambda: all("requests=1" in each for each in batches(server)[-8:]), 5)
        assert not other.done()
        assert other.result(120).as_numpy("report") is not None


def test_a_request_without_an_id_gets_one(triton: InferenceServerClient) -> None:
    request = InferInput("request", [1], "BYTES")
    request.set_data_from_numpy(np.array([b"{"], dtype=object))
    image = InferInput("image", [3], "UINT8")
    image.set_data_from_numpy(np.zeros(3, np.uint8))
    with pytest.raises(InferenceServerException) as refused:
        triton.infer(MODEL_NAME, [request, image])
    detail = ErrorDetail.from_status_message(refused.value.message())
    assert detail is not None
    assert detail.request_id
