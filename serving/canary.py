"""A small request that succeeds only if all models of a server work.

Triton's own health stays ready after a model's process has died or stalled.
"""

from __future__ import annotations

import json
import secrets
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from pipelines import PipelineDescriptor
from request_plan.refusals import OverloadedError
from segs_client.contract import MODEL_NAME, STREAM_MODEL_NAME, ErrorDetail
from segs_client.events import EVENT_OUTPUT, ErrorEvent, parse_event
from serving.connection import Connection
from serving.errors import CanaryError

SIDE_PX = 64
"""Side of a canary's picture and SEG."""


@dataclass(frozen=True)
class Canary:
    """A small request through a pipeline's networks, with one of its ControlNets or none."""

    pipeline: str
    controlnet: str | None = None
    streamed: bool = False
    """Through the front end of streams."""

    def __str__(self) -> str:
        controlnet = f" with ControlNet {self.controlnet!r}" if self.controlnet else ""
        return f"pipeline {self.pipeline!r}{controlnet}" + (", streamed" if self.streamed else "")


def canaries(pipelines: Iterable[PipelineDescriptor]) -> tuple[Canary, ...]:
    """Canaries for all models of these pipelines and both front ends."""
    found = [
        Canary(each.name, controlnet)
        for each in pipelines
        for controlnet in (None, *each.controlnets)
    ]
    return (*found, *(Canary(each.pipeline, streamed=True) for each in found[:1]))


def canary_request(canary: Canary) -> dict[str, Any]:
    """The request's JSON: one step on one small SEG, without a picture in the response."""
    return {
        "pipeline": canary.pipeline,
        "controlnets": [] if canary.controlnet is None else [{"name": canary.controlnet}],
        "steps": 1,
        "guide_size": SIDE_PX,
        "max_size": SIDE_PX,
        "image": {"encoding": "raw", "shape": [SIDE_PX, SIDE_PX, 3]},
        "segs": {"items": [{"bbox": [16, 16, 48, 48]}]},
        "output": {"image": "none"},
    }


def run_canary(server: Connection, canary: Canary, timeout_s: float) -> float:
    """Sends one canary and returns its duration in seconds.

    Raises:
        CanaryError: it failed, or took longer than ``timeout_s``.
    """
    begun_s = time.monotonic()
    model = STREAM_MODEL_NAME if canary.streamed else MODEL_NAME
    pixels = bytes(SIDE_PX * SIDE_PX * 3)
    message = infer_message(model, f"canary-{canary.pipeline}", canary_request(canary), pixels)
    for name, value in server.parameters.items():
        message.parameters[name].string_param = value
    # Not sampled: canaries would only clutter the traces.
    untraced = ("traceparent", f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00")
    given: dict[str, Any] = {
        "timeout": timeout_s,
        "metadata": (*server.headers.items(), untraced),
    }
    try:
        with server.open_channel() as channel:
            stub = GRPCInferenceServiceStub(channel)
            if canary.streamed:
                for response in stub.ModelStreamInfer(iter([message]), **given):
                    _check_event(canary, response)
            else:
                stub.ModelInfer(message, **given)
    except grpc.RpcError as error:
        detail = ErrorDetail.from_status_message(error.details() or "")
        if detail is not None:
            raise _failure(canary, detail) from error
        raise CanaryError(f"{canary}: [{error.code()}] {error.details()}") from error
    return time.monotonic() - begun_s


def infer_message(
    model: str, request_id: str, body: Mapping[str, Any], picture: bytes
) -> ModelInferRequest:
    """A request as a gRPC message.

    Args:
        body: its JSON.
        picture: a file, or raw pixels.
    """
    message = ModelInferRequest(model_name=model, id=request_id)
    text = json.dumps(body).encode()
    message.inputs.add(name="request", datatype="BYTES", shape=[1])
    message.raw_input_contents.append(struct.pack("<I", len(text)) + text)
    message.inputs.add(name="image", datatype="UINT8", shape=[len(picture)])
    message.raw_input_contents.append(picture)
    return message


def _check_event(canary: Canary, response: Any) -> None:
    """
    Raises:
        CanaryError: the response of a stream has an error.
    """
    if response.error_message:
        raise CanaryError(f"{canary}: {response.error_message}")
    answer = response.infer_response
    outputs = dict(
        zip((each.name for each in answer.outputs), answer.raw_output_contents, strict=True)
    )
    event = parse_event(outputs[EVENT_OUTPUT])
    if isinstance(event, ErrorEvent):
        raise _failure(canary, event.error)


def _failure(canary: Canary, detail: ErrorDetail) -> CanaryError:
    is_overload = detail.message.startswith(OverloadedError.WHY)
    return CanaryError(f"{canary}: {detail.code}: {detail.message}", is_overload=is_overload)
