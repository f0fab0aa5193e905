"""How requests and answers ride on Triton's protocol; shared by the sync and async clients."""

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
    # A server that is starting is noticed soon; gRPC would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # gRPC's name is misleading: this is how long one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # A call may be silent for minutes. NATs and load balancers forget a silent connection after
    # 4 minutes and more, without a word to either end; pings keep it and tell a dead one.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Between calls there are no pings: a server may end a connection for those. It is left before
    # others forget it.
    ("grpc.client_idle_timeout_ms", 180_000),
]
"""How every channel is set up; seconds and bytes are documented in docs/client.md."""


def new_request_id() -> str:
    """A fresh id, by which the server's log explains a call."""
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
    """Those arguments that end it after ``timeout_s``: gRPC's deadline, and in microseconds
    Triton's own, which the server honours at every step.

    Raises:
        InvalidRequest: the time-out is not a positive number of seconds.
    """
    check_timeout(timeout_s)
    return {"timeout": max(int(timeout_s * 1e6), 1), "client_timeout": timeout_s}


def request_text(built: BuiltRequest) -> bytes:
    """The content of the tensor ``request``."""
    return built.request.model_dump_json().encode()


def byte_tensors(built: BuiltRequest) -> Iterator[tuple[str, ByteArray]]:
    """The other tensors of a request, by name, those that it has."""
    for name in ("image", "masks", "seg_images", "control_images"):
        data = getattr(built, name)
        if data is not None:
            yield name, data


def read_answer(
    built: BuiltRequest, answer: Any, elsewhere: Mapping[str, ByteArray]
) -> DetailResult:
    """The result out of tritonclient's ``InferResult``.

    Args:
        built: the request.
        answer: the ``InferResult``.
        elsewhere: outputs that came another way, by name.

    Raises:
        ServerError: the answer breaks the contract.
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
