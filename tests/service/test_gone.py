"""Clients that are gone or late: the engine drops the request's SEGs, the others go on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from segs_client import Client, StepEvent, transport
from segs_client.contract import MODEL_NAME, ErrorDetail
from segs_client.messages import build
from serving.server import EmbeddedServer
from tests.service.observed import batches_shared, executions, wait_idle
from tests.waiting import wait_until

pytestmark = pytest.mark.server

PICTURE = np.full((96, 128, 3), 128, np.uint8)
BOX = (40, 30, 60, 50)
STEPS = 9000
"""Of a request that is cancelled before its end; each takes two rows of the UNet."""
SMALL: dict[str, Any] = {"guide_size": 64, "max_size": 64, "denoise": 1.0}


def arguments() -> dict[str, Any]:
    """Of tritonclient's ``infer``; the time-out is far off."""
    built = build(PICTURE, [BOX], pipeline="sd15", steps=STEPS, **SMALL)
    return transport.infer_arguments(built, "gone", 300.0)


@pytest.fixture
def triton(server: EmbeddedServer) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc_url) as client:
        yield client


def wait_at_work(server: EmbeddedServer) -> None:
    """Until the UNet has run some more steps."""
    last = executions(server).rows
    wait_until(lambda: executions(server).rows >= last + 8)


@pytest.fixture
def dropped(server: EmbeddedServer) -> Iterator[None]:
    """After the test the server is soon idle, and a request was not worked on to its end."""
    before = executions(server).rows
    yield
    wait_idle(server)
    assert executions(server).rows - before < 2 * STEPS


@pytest.mark.usefixtures("dropped")
def test_a_cancelled_request_is_dropped(
    server: EmbeddedServer, triton: InferenceServerClient
) -> None:
    told: list[Any] = []
    call = triton.async_infer(
        **arguments(), callback=lambda result, error: told.append((result, error))
    )
    wait_at_work(server)
    call.cancel()
    wait_until(lambda: told)
    (answer,) = told
    assert "CANCELLED" in str(answer[1].status())


@pytest.mark.usefixtures("dropped")
def test_a_client_that_has_died_is_noticed(server: EmbeddedServer, tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text(
        "import sys; import numpy as np; from segs_client import Client\n"
        "with Client(sys.argv[1], pipeline='sd15') as client:\n"
        f"    client.detail(np.full((96, 128, 3), 128, np.uint8), [{BOX}], steps={STEPS},"
        " guide_size=64, max_size=64, denoise=1.0)\n"
    )
    client = subprocess.Popen([sys.executable, str(script), server.grpc_url])
    wait_at_work(server)
    client.send_signal(signal.SIGKILL)
    client.wait()


@pytest.mark.usefixtures("dropped")
def test_the_deadline_of_grpc_alone_bounds_the_work(triton: InferenceServerClient) -> None:
    given = {**arguments(), "client_timeout": 1.0}
    del given["timeout"]
    with pytest.raises(InferenceServerException, match="Deadline"):
        triton.infer(**given)


@pytest.mark.usefixtures("dropped")
def test_the_requests_own_time_bounds_the_work(triton: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as refused:
        triton.infer(**{**arguments(), "timeout": 700_000})
    detail = ErrorDetail.from_status_message(refused.value.message())
    assert detail is not None
    assert (detail.code, detail.request_id) == ("DEADLINE_EXCEEDED", "gone")


@pytest.mark.usefixtures("dropped")
def test_batches_shrink_and_the_others_go_on(
    server: EmbeddedServer, triton: InferenceServerClient
) -> None:
    shared = batches_shared(server, 2)
    with Client(server.grpc_url, pipeline="sd15") as client:
        other = client.stream(PICTURE, [BOX], steps=STEPS, **SMALL)
        assert any(isinstance(update.event, StepEvent) for update in other)
        call = triton.async_infer(**arguments(), callback=lambda result, error: None)
        wait_until(lambda: batches_shared(server, 2) > shared)
        call.cancel()
        alone = batches_shared(server, 1) - batches_shared(server, 2)
        wait_until(lambda: batches_shared(server, 1) - batches_shared(server, 2) > alone)
        assert any(isinstance(update.event, StepEvent) for update in other)
        other.close()


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
