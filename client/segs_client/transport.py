"""Requests and responses in Triton's protocol, for the sync and async clients."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput

from segs_client.arrays import ByteArray
from segs_client.contract import MODEL_NAME
from segs_client.errors import InvalidRequest
from segs_client.messages import OUTPUTS, BuiltRequest, DetailResult, parse

MAX_MESSAGE_BYTES = 2**31 - 1
CHANNEL_ARGS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # To notice a starting server soon; gRPC's default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # In spite of its name, this is the time-out of one attempt to connect.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # A call may transfer nothing for minutes. NATs and load balancers drop an idle connection after
    # 4 minutes or more without a notice; pings keep it open and detect a dead one.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # No pings between calls, since a server may close the connection for them. An idle connection
    # is closed before others drop it.
    ("grpc.client_idle_timeout_ms", 180_000),
]
"""Options of every channel; times and sizes are documented in docs/client.md."""


def new_request_id() -> str:
    """A new id, which is in the server's log."""
    return uuid.uuid4().hex


def infer_arguments(built: BuiltRequest, request_id: str, timeout_s: float) -> dict[str, Any]:
    """Keyword arguments of tritonclient's ``infer`` for one request.

    Raises:
        InvalidRequest: the time-out is not a positive number of seconds.
    """
    timing = time_arguments(timeout_s)
    text = np.array([request_text(built)], np.object_)
    inputs = [_tensor("request", text, "BYTES")]
    inputs += [_tensor(name, data, "UINT8") for name, data in byte_tensors(built)]
    return {"model_name": MODEL_NAME, "inputs": inputs, "request_id": request_id, **timing}


def time_arguments(timeout_s: float) -> dict[str, Any]:
    """The arguments for a time-out: gRPC's deadline, and Triton's time-out in microseconds, which
    the server checks at every step.

    Raises:
        InvalidRequest: the time-out is not a positive number of seconds.
    """
    check_timeout(timeout_s)
    return {"timeout": max(int(timeout_s * 1e6), 1), "client_timeout": timeout_s}


def request_text(built: BuiltRequest) -> bytes:
    """The content of the tensor ``request``."""
    return built.request.model_dump_json().encode()


def byte_tensors(built: BuiltRequest) -> Iterator[tuple[str, ByteArray]]:
    """The other tensors of a request by name."""
    for name in ("image", "masks", "seg_images", "control_images"):
        data = getattr(built, name)
        if data is not None:
            yield name, data


def read_answer(
    built: BuiltRequest, answer: Any, elsewhere: Mapping[str, ByteArray]
) -> DetailResult:
    """The result from tritonclient's ``InferResult``.

    Args:
        built: the request.
        answer: the ``InferResult``.
        elsewhere: outputs received by shared memory, by name.

    Raises:
        ServerError: the response breaks the contract.
    """
    report, *pictures = (
        elsewhere[name] if name in elsewhere else _output(answer, name) for name in OUTPUTS
    )
    return parse(built, report.tobytes(), *pictures)


def check_timeout(timeout_s: float) -> None:
    """Refuses a time-out that is not a positive finite number of seconds."""
    if not 0 < timeout_s <= 7 * 86400:
        allowed = "more than 0, at most 604800 seconds (a week)"
        raise InvalidRequest(
            f"timeout_s: out of range (got {timeout_s!r}); allowed: {allowed}",
            field="timeout_s",
            value=repr(timeout_s),
            allowed=allowed,
        )


def _tensor(name: str, array: npt.NDArray[Any], datatype: str) -> InferInput:
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def _output(answer: Any, name: str) -> ByteArray:
    array = answer.as_numpy(name)
    return np.empty(0, np.uint8) if array is None else np.asarray(array, np.uint8).ravel()
