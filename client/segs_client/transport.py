"""How requests and answers ride on Triton's protocol; shared by the sync and async clients."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput

from segs_client.arrays import ByteArray
from segs_client.contract import MODEL_NAME
from segs_client.errors import InvalidRequest
from segs_client.messages import BuiltRequest, DetailResult, parse

MAX_MESSAGE_BYTES = 2**31 - 1
CHANNEL_ARGS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A server that is starting is noticed soon; gRPC would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


def new_request_id() -> str:
    """A fresh id, by which the server's log explains a call."""
    return uuid.uuid4().hex


def infer_arguments(built: BuiltRequest, request_id: str, timeout_s: float) -> dict[str, Any]:
    """Keyword arguments of tritonclient's ``infer`` for one request.

    The time-out is sent as the gRPC deadline and, in microseconds, as Triton's own, which the
    server honours at every step.

    Raises:
        InvalidRequest: the time-out is not a positive number of seconds.
    """
    check_timeout(timeout_s)
    text = built.request.model_dump_json().encode()
    inputs = [_tensor("request", np.array([text], np.object_), "BYTES")]
    for name, data in (
        ("image", built.image),
        ("masks", built.masks),
        ("seg_images", built.seg_images),
        ("control_images", built.control_images),
    ):
        if data is not None:
            inputs.append(_tensor(name, data, "UINT8"))
    return {
        "model_name": MODEL_NAME,
        "inputs": inputs,
        "request_id": request_id,
        "timeout": max(int(timeout_s * 1e6), 1),
        "client_timeout": timeout_s,
    }


def read_answer(built: BuiltRequest, answer: Any) -> DetailResult:
    """The result out of tritonclient's ``InferResult``.

    Raises:
        ServerError: the answer breaks the contract.
    """
    report = _output(answer, "report").tobytes()
    outputs = ("detailed_image", "detailed_segs", "used_control_images")
    return parse(built, report, *(_output(answer, name) for name in outputs))


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
