"""Streams on Triton's protocol: the request's message and its updates, for all clients."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from segs_client import transport
from segs_client.contract import STREAM_MODEL_NAME
from segs_client.errors import ServerError, from_detail, from_transport
from segs_client.events import (
    CANCEL_PARAMETER,
    EVENT_OUTPUT,
    PICTURE_OUTPUT,
    CancelledEvent,
    ErrorEvent,
    ResultEvent,
    StreamEvent,
    parse_event,
)
from segs_client.messages import OUTPUTS, BuiltRequest, DetailResult, parse
from segs_client.pictures import with_profile

_TIMEOUT = "timeout"


@dataclass(frozen=True, eq=False)
class StreamUpdate:
    """One event of a stream.

    Attributes:
        event: its kind and content.
        picture: a preview or a detailed crop, RGB, if the event has one; with the ICC profile of
            the picture that was sent in ``info``.
        result: of the last event: the result of :meth:`segs_client.Client.detail`.
    """

    event: StreamEvent
    picture: Image.Image | None = None
    result: DetailResult | None = None

    @property
    def is_last(self) -> bool:
        """Whether it is the last one."""
        return isinstance(self.event, ResultEvent | CancelledEvent)


def stream_message(built: BuiltRequest, request_id: str, timeout_s: float) -> Any:
    """The protobuf message of a streamed request.

    Raises:
        InvalidRequest: the time-out is not a positive number of seconds.
    """
    message = _message(request_id, timeout_s)
    text = transport.request_text(built)
    message.inputs.add(name="request", datatype="BYTES", shape=[1])
    message.raw_input_contents.append(len(text).to_bytes(4, "little") + text)
    for name, data in transport.byte_tensors(built):
        message.inputs.add(name=name, datatype="UINT8", shape=[data.size])
        message.raw_input_contents.append(data.tobytes())
    return message


def in_time(message: Any, timeout_us: int) -> Any:
    """The same message with another time-out."""
    changed = service_pb2.ModelInferRequest()
    changed.CopyFrom(message)
    changed.parameters[_TIMEOUT].int64_param = timeout_us
    return changed


def cancel_message(request_id: str, timeout_s: float) -> Any:
    """The protobuf message that cancels a request.

    Raises:
        InvalidRequest: the time-out is not a positive number of seconds.
    """
    message = _message(transport.new_request_id(), timeout_s)
    message.parameters[CANCEL_PARAMETER].string_param = request_id
    return message


def _message(request_id: str, timeout_s: float) -> Any:
    timeout_us = transport.time_arguments(timeout_s)["timeout"]
    message = service_pb2.ModelInferRequest(model_name=STREAM_MODEL_NAME, id=request_id)
    message.parameters[_TIMEOUT].int64_param = timeout_us
    return message


def open_stream(channel: Any, messages: Sequence[Any], headers: Mapping[str, str]) -> Any:
    """Starts a gRPC call: iterating it reads responses, and it can be cancelled. Its time-out is
    the longest of its messages.

    Args:
        channel: of grpc or of grpc.aio.
    """
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    timeout_us = max(message.parameters[_TIMEOUT].int64_param for message in messages)
    return stub.ModelStreamInfer(
        iter(messages), metadata=tuple(headers.items()), timeout=timeout_us / 1e6
    )


def read_update(built: BuiltRequest | None, response: Any, request_id: str) -> StreamUpdate:
    """The update of one response.

    Args:
        built: the request, to read its result; None for a cancelling call.
        response: a ``ModelStreamInferResponse``.

    Raises:
        SegsError: the request has failed, or the response breaks the contract.
    """
    if response.error_message:
        error = InferenceServerException(response.error_message)
        raise from_transport(error, request_id=request_id)
    outputs = _outputs(response.infer_response)
    try:
        event = parse_event(outputs.get(EVENT_OUTPUT, b""))
        picture = _picture(event, outputs, None if built is None else built.profile)
    except (ValueError, OSError) as broken:
        raise ServerError(f"the server's answer breaks the contract: {broken}") from broken
    if isinstance(event, ErrorEvent):
        raise from_detail(event.error, request_id=request_id)
    result = None
    if isinstance(event, ResultEvent) and built is not None:
        report, *pictures = (outputs.get(name, b"") for name in OUTPUTS)
        image, segs, controls = (np.frombuffer(each, np.uint8) for each in pictures)
        result = parse(built, report, image, segs, controls)
    return StreamUpdate(event, picture, result)


def _outputs(response: Any) -> Mapping[str, bytes]:
    """The raw bytes of each output.

    Raises:
        ServerError: an output does not have its declared length.
    """
    outputs, contents = response.outputs, response.raw_output_contents
    lengths = [math.prod(output.shape) for output in outputs]
    if lengths != [len(content) for content in contents]:
        raise ServerError("the server's answer breaks the contract: outputs of other lengths")
    return {output.name: content for output, content in zip(outputs, contents, strict=True)}


def _picture(
    event: StreamEvent, outputs: Mapping[str, bytes], profile: bytes | None
) -> Image.Image | None:
    """
    Raises:
        OSError, ValueError: it is no picture, or not in the event's form.
    """
    info = getattr(event, "picture", None)
    if info is None:
        return None
    with Image.open(io.BytesIO(outputs.get(PICTURE_OUTPUT, b"")), formats=[info.encoding]) as file:
        if (file.height, file.width) != info.shape[:2]:
            raise ValueError(f"a picture of {file.width}×{file.height} px")
        return with_profile(file.convert("RGB"), profile)
