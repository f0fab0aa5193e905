"""Client against a server on loopback that speaks Triton's protocol."""

from __future__ import annotations

import json
import socket
from typing import Any

import grpc
import numpy as np
import pytest
from fake_server import FakeTriton, inputs_of, serving, silent

import segs_client
from segs_client import Client, Retries, Segs
from segs_client.contract import ErrorDetail, parse_request

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
SEGS = Segs.from_boxes([(4, 4, 20, 20)], (32, 48), crop_factor=1.5, labels=["face"])


def echo(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
    """Sends the raw picture back, and each SEG's region of it as its detailed crop."""
    tensors = inputs_of(request)
    asked = parse_request(tensors["request"])
    picture = np.frombuffer(tensors["image"], np.uint8).reshape(asked.image.shape)
    crops, reports = b"", []
    for index, seg in enumerate(asked.segs.items):
        x1, y1, x2, y2 = seg.crop_region or seg.bbox
        crop = picture[y1:y2, x1:x2]
        buffer = {
            "offset": len(crops),
            "length": crop.size,
            "shape": crop.shape,
            "encoding": "uint8",
        }
        crops += crop.tobytes()
        reports.append(
            {
                "index": index,
                "status": "enhanced",
                "label": seg.label,
                "bbox": seg.bbox,
                "crop_region": [x1, y1, x2, y2],
                "image": buffer if asked.output.seg_images == "uint8" else None,
            }
        )
    report = {
        "request_id": request.id,
        "pipeline": asked.pipeline,
        "segs": reports,
        "image": {"encoding": "raw", "shape": picture.shape},
        "times_s": {"sample": 0.5},
    }
    return {
        "report": json.dumps(report).encode(),
        "detailed_image": picture.tobytes(),
        "detailed_segs": crops,
    }


def abort(code: grpc.StatusCode, message: str) -> Any:
    def handler(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        context.abort(code, message)
        raise AssertionError

    return handler


def test_round_trip() -> None:
    fake = FakeTriton(echo)
    with serving(fake) as url, Client(url, pipeline="base") as client:
        client.wait_ready(10)
        assert client.is_ready()
        result = client.detail(
            PICTURE,
            SEGS,
            prompt="a face",
            request_id="abc",
            timeout_s=20,
            output={"image": "raw", "seg_images": "uint8"},
        )
    assert result.image is not None
    np.testing.assert_array_equal(np.asarray(result.image), PICTURE)
    assert result.report.request_id == "abc"
    assert result.segs[0].label == "face"
    np.testing.assert_array_equal(result.segs[0].mask, SEGS[0].mask)
    x1, y1, x2, y2 = SEGS[0].crop_region
    assert result.segs[0].image is not None
    np.testing.assert_array_equal(
        np.rint(result.segs[0].image * 255).astype(np.uint8), PICTURE[y1:y2, x1:x2]
    )

    (request,) = fake.requests
    assert request.model_name == "segs_detailer"
    assert request.parameters["timeout"].int64_param == pytest.approx(20_000_000, rel=0.05)
    assert {tensor.name for tensor in request.inputs} == {"request", "image", "masks"}
    assert json.loads(inputs_of(request)["request"])["prompt"] == "a face"


def test_request_id_is_made_and_unique() -> None:
    fake = FakeTriton(echo)
    with serving(fake) as url, Client(url, pipeline="base") as client:
        for _ in range(2):
            client.detail(PICTURE, [(0, 0, 8, 8)], output={"image": "raw"})
    first, second = (request.id for request in fake.requests)
    assert len(first) == 32
    assert first != second


def test_large_messages_pass() -> None:
    picture = np.zeros((1500, 1500, 3), np.uint8)  # 6.75 MB; gRPC's own limit is 4 MB
    with serving(FakeTriton(echo)) as url, Client(url, pipeline="base") as client:
        result = client.detail(picture, [(0, 0, 8, 8)], output={"image": "raw"})
    assert result.image is not None
    assert result.image.size == (1500, 1500)


def test_server_detail_becomes_invalid_request() -> None:
    detail = ErrorDetail(
        code="INVALID_ARGUMENT",
        message="pipeline: unknown (got 'nope'); allowed: 'base'",
        field="pipeline",
        value="'nope'",
        allowed="'base'",
        request_id="r1",
    )
    message = "in ensemble 'segs_detailer', " + detail.to_status_message()
    handler = abort(grpc.StatusCode.INTERNAL, message)
    with (
        serving(FakeTriton(handler)) as url,
        Client(url, pipeline="nope") as client,
        pytest.raises(segs_client.InvalidRequest) as caught,
    ):
        client.detail(PICTURE, SEGS)
    error = caught.value
    assert (error.code, error.request_id) == ("INVALID_ARGUMENT", "r1")
    assert (error.field, error.value, error.allowed) == ("pipeline", "'nope'", "'base'")


def test_long_detail_survives_grpc() -> None:
    detail = ErrorDetail(code="INTERNAL", message="🙂" * 3000, value="é" * 3000, request_id="r")
    handler = abort(grpc.StatusCode.INTERNAL, detail.to_status_message())
    with (
        serving(FakeTriton(handler)) as url,
        Client(url, pipeline="base") as client,
        pytest.raises(segs_client.ServerError) as caught,
    ):
        client.detail(PICTURE, SEGS)
    assert caught.value.request_id == "r"


def test_deadline() -> None:
    with (
        serving(FakeTriton(silent)) as url,
        Client(url, pipeline="base") as client,
        pytest.raises(segs_client.DeadlineExceeded) as caught,
    ):
        client.detail(PICTURE, SEGS, timeout_s=0.2, request_id="late")
    assert caught.value.request_id == "late"


def test_answer_that_breaks_the_contract() -> None:
    def wrong(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        return {"report": b"{}", "detailed_image": b""}

    with (
        serving(FakeTriton(wrong)) as url,
        Client(url, pipeline="base") as client,
        pytest.raises(segs_client.ServerError, match="breaks the contract"),
    ):
        client.detail(PICTURE, SEGS)


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan")])
def test_timeouts_are_finite(timeout_s: float) -> None:
    with Client(pipeline="base") as client, pytest.raises(segs_client.InvalidRequest) as caught:
        client.detail(PICTURE, SEGS, timeout_s=timeout_s)
    assert caught.value.field == "timeout_s"


def test_pipeline_is_required() -> None:
    with Client() as client, pytest.raises(segs_client.InvalidRequest, match="pipeline: required"):
        client.detail(PICTURE, SEGS)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_wait_ready_gives_up_and_says_what_it_saw() -> None:
    url = f"127.0.0.1:{closed_port()}"
    with Client(url) as client:
        with pytest.raises(segs_client.ServerUnavailable, match=f"{url}.*last seen: UNAVAILABLE"):
            client.wait_ready(0.7)
        assert not client.is_ready()


def test_wait_ready_waits_for_the_model() -> None:
    with (
        serving(FakeTriton(echo, model_ready=False)) as url,
        Client(url) as client,
        pytest.raises(segs_client.ServerUnavailable, match="its model segs_detailer is not"),
    ):
        client.wait_ready(0.5)


def test_unreachable_server_is_retryable() -> None:
    with (
        Client(f"127.0.0.1:{closed_port()}", pipeline="base", retries=Retries(rounds=0)) as client,
        pytest.raises(segs_client.ServerUnavailable) as caught,
    ):
        client.detail(PICTURE, SEGS)
    assert caught.value.retryable
