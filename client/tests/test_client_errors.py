"""The mapping from the transport's errors to the client's."""

from __future__ import annotations

from typing import Any, get_args

import grpc
import pytest
from tritonclient.utils import InferenceServerException

from segs_client import errors
from segs_client.contract import ErrorCode, ErrorDetail


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        ("StatusCode.INVALID_ARGUMENT", errors.InvalidRequest, "INVALID_ARGUMENT"),
        ("StatusCode.UNAUTHENTICATED", errors.Unauthenticated, "UNAUTHENTICATED"),
        ("StatusCode.PERMISSION_DENIED", errors.Unauthenticated, "UNAUTHENTICATED"),
        ("StatusCode.UNAVAILABLE", errors.ServerUnavailable, "UNAVAILABLE"),
        ("StatusCode.RESOURCE_EXHAUSTED", errors.ServerUnavailable, "UNAVAILABLE"),
        ("StatusCode.DEADLINE_EXCEEDED", errors.DeadlineExceeded, "DEADLINE_EXCEEDED"),
        ("StatusCode.CANCELLED", errors.Cancelled, "CANCELLED"),
        ("StatusCode.INTERNAL", errors.ServerError, "INTERNAL"),
        ("StatusCode.NOT_FOUND", errors.ServerError, "INTERNAL"),
        ("StatusCode.UNKNOWN", errors.ServerError, "INTERNAL"),
        (None, errors.ServerError, "INTERNAL"),
    ],
)
def test_status_decides_without_detail(status: str | None, kind: type[Any], code: str) -> None:
    error = errors.from_transport(InferenceServerException("trouble", status), request_id="r")
    assert type(error) is kind
    assert (error.code, error.message, error.request_id) == (code, "trouble", "r")
    assert error.retryable == (code == "UNAVAILABLE")
    assert isinstance(error, errors.SegsError)


@pytest.mark.parametrize("code", get_args(ErrorCode))
def test_detail_wins_over_status(code: ErrorCode) -> None:
    detail = ErrorDetail(code=code, message="said", field="f", value="v", allowed="a")
    text = "in ensemble 'segs_detailer', " + detail.to_status_message()
    error = errors.from_transport(InferenceServerException(text, "StatusCode.UNKNOWN"))
    assert (error.code, error.message) == (code, "said")
    if isinstance(error, errors.InvalidRequest):
        assert (error.field, error.value, error.allowed) == ("f", "v", "a")
        assert isinstance(error, ValueError)


def test_request_id_of_the_server_wins() -> None:
    text = ErrorDetail(code="INTERNAL", message="m", request_id="theirs").to_status_message()
    error = errors.from_transport(InferenceServerException(text, None), request_id="ours")
    assert error.request_id == "theirs"


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        ("UNAVAILABLE", "Request timeout expired", errors.DeadlineExceeded),
        ("UNAVAILABLE", "This protocol is restricted, expecting header", errors.Unauthenticated),
        ("RESOURCE_EXHAUSTED", "Sent message larger than max (9 vs. 8)", errors.InvalidRequest),
        ("INTERNAL", "Stub process 'segs_detailer_0_0' is not healthy.", errors.ServerUnavailable),
        (
            "NOT_FOUND",
            "Request for unknown model: 'segs_detailer' has no available versions",
            errors.ServerUnavailable,
        ),
        (
            "INTERNAL",
            "Request for unknown model: 'segs_detailer' version 1 is not at ready state",
            errors.ServerUnavailable,
        ),
        ("NOT_FOUND", "Request for unknown model: 'x' is not found", errors.ServerError),
    ],
)
def test_what_the_status_does_not_tell_the_message_does(
    status: str, text: str, kind: type[errors.SegsError]
) -> None:
    error = errors.from_transport(InferenceServerException(text, f"StatusCode.{status}"))
    assert type(error) is kind
    assert error.message == text


@pytest.mark.parametrize(
    ("text", "is_loss"),
    [
        ("Stream removed (Socket closed)", True),
        ("Stub process 'segs_detailer_0_0' is not healthy.", True),
        ("a part of the server died meanwhile: try again in 5.0 s", True),
        ("failed to connect to all addresses; last error: Connection refused", False),
        ("the server is stopping: try again in 5.0 s", False),
        ("overloaded: try again in 0.4 s", False),
    ],
)
def test_a_server_that_was_lost_is_told_from_one_that_refused(text: str, is_loss: bool) -> None:
    assert errors.ServerUnavailable(text).is_loss is is_loss


def test_message_is_never_empty() -> None:
    assert (
        "StatusCode.INTERNAL"
        in errors.from_transport(InferenceServerException("", "StatusCode.INTERNAL")).message
    )


class Call(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "connection refused"


def test_grpc_errors() -> None:
    error = errors.from_transport(Call())
    assert isinstance(error, errors.ServerUnavailable)
    assert error.message == "connection refused"
    assert isinstance(errors.from_transport(grpc.RpcError("bare")), errors.ServerError)
