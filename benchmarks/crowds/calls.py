"""Requests over plain gRPC, without the client's package: nothing is retried unless it says so."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from benchmarks.crowds.ends import NO_ANSWER, REFUSED, UNREADABLE, end_of, end_of_report
from benchmarks.crowds.pictures import grey
from segs_client.contract import MODEL_NAME, STREAM_MODEL_NAME, ErrorDetail
from segs_client.events import EVENT_OUTPUT
from serving.canary import SIDE_PX, Canary, canary_request, infer_message

_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # else channels to one server share a connection
]


@dataclass(frozen=True, eq=False)
class Ask:
    """One request."""

    request_id: str
    body: Mapping[str, Any]
    picture: bytes = grey(SIDE_PX)

    def message(self, model: str = MODEL_NAME) -> ModelInferRequest:
        """What is sent."""
        return infer_message(model, self.request_id, self.body, self.picture)

    def shown(self) -> Ask:
        """The same, with the pixels to come back."""
        return replace(self, body={**self.body, "output": {"image": "raw"}})


def small_ask(pipeline: str, request_id: str, **changes: Any) -> Ask:
    """One step on one small SEG, and no picture back, but for what is changed."""
    return Ask(request_id, {**canary_request(Canary(pipeline)), **changes})


@dataclass(frozen=True, eq=False)
class Answer:
    """What came of a request; the pixels only where they are kept for a comparison."""

    end: str
    report: Mapping[str, Any] | None = None
    pixels: bytes = b""
    detail: ErrorDetail | None = None


@contextmanager
def open_stub(url: str) -> Iterator[GRPCInferenceServiceStub]:
    """A connection of its own."""
    with grpc.insecure_channel(url, options=_CHANNEL) as channel:
        yield GRPCInferenceServiceStub(channel)


def connect(url: str) -> tuple[Any, GRPCInferenceServiceStub]:
    """The same for a caller who closes it himself; the channel is the first."""
    channel = grpc.insecure_channel(url, options=_CHANNEL)
    return channel, GRPCInferenceServiceStub(channel)


def of_error(error: grpc.RpcError) -> Answer:
    """The answer that a failed call is."""
    detail = ErrorDetail.from_status_message(error.details() or "")
    return Answer(end_of(error.code().name, detail), detail=detail)


def of_response(response: Any, *, keep: bool = False) -> Answer:
    """The answer that a ``ModelInferResponse`` is.

    Args:
        keep: also the picture.
    """
    outputs = outputs_of(response)
    try:
        report = json.loads(outputs["report"])
        end = end_of_report(report)
    except (LookupError, TypeError, ValueError):
        return Answer(UNREADABLE)
    return Answer(end, report, outputs.get("detailed_image", b"") if keep else b"")


def outputs_of(response: Any) -> dict[str, bytes]:
    """The raw bytes of each output."""
    names = [output.name for output in response.outputs]
    return dict(zip(names, response.raw_output_contents, strict=False))


def ask_once(url: str, ask: Ask, timeout_s: float, *, keep: bool = False) -> Answer:
    """Sends it over a connection of its own and waits."""
    with open_stub(url) as stub:
        try:
            return of_response(stub.ModelInfer(ask.message(), timeout=timeout_s), keep=keep)
        except grpc.RpcError as error:
            return of_error(error)


def ask_patiently(url: str, ask: Ask, limit_s: float, *, keep: bool = False) -> Answer:
    """Sends the request again after each refusal, as asked, until it is accepted or late."""
    until_s = time.monotonic() + limit_s
    while True:
        answer = ask_once(url, ask, max(until_s - time.monotonic(), 1.0), keep=keep)
        if answer.end != REFUSED or answer.detail is None or time.monotonic() > until_s:
            return answer
        pause_s = answer.detail.retry_after_s or 0.0
        time.sleep(max(min(pause_s, until_s - time.monotonic()), 0.0))


def follow(url: str, ask: Ask, timeout_s: float, *, keep: bool = False) -> Answer:
    """Sends it as a stream over a connection of its own and listens to its end."""
    over = threading.Event()

    def sent() -> Iterator[ModelInferRequest]:
        yield ask.message(STREAM_MODEL_NAME)
        over.wait(timeout_s)  # a caller who has said all there is to say may still be there

    try:
        with open_stub(url) as stub:
            for part in stub.ModelStreamInfer(sent(), timeout=timeout_s):
                if (answer := _of_part(part, keep)) is not None:
                    return answer
            return Answer(NO_ANSWER)
    except grpc.RpcError as error:
        return of_error(error)
    finally:
        over.set()


def _of_part(part: Any, keep: bool) -> Answer | None:
    """The answer, if this response is the last one of a stream."""
    if part.error_message:
        detail = ErrorDetail.from_status_message(part.error_message)
        return Answer(end_of("UNKNOWN" if detail is None else detail.code, detail), detail=detail)
    try:
        event = json.loads(outputs_of(part.infer_response)[EVENT_OUTPUT])
        if event["event"] == "error":
            detail = ErrorDetail.model_validate(event["error"])
            return Answer(end_of(detail.code, detail), detail=detail)
        is_last = event["event"] == "result"
    except (LookupError, TypeError, ValueError):
        return Answer(UNREADABLE)
    return of_response(part.infer_response, keep=keep) if is_last else None
