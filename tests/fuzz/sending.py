"""Sends calls and reads what came back."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from segs_client.contract import ErrorDetail
from segs_client.events import EVENT_OUTPUT, ErrorEvent, parse_event
from segs_client.transport import CHANNEL_ARGS
from tests.fuzz import sockets
from tests.fuzz.calls import Call
from tests.fuzz.messages import INSIDE
from tests.fuzz.target import Target
from tests.fuzz.verdicts import HANG_S, Outcome

_MOST_DIFFERENCE = 2
"""Grey levels between a request alone and among others."""


class Sender:
    """One client's connection; not for several threads at once."""

    def __init__(self, target: Target) -> None:
        self._target = target
        host, port = target.address("grpc")
        self._inside = target.server.credentials.inside.encode()
        self._channel = grpc.insecure_channel(f"{host}:{port}", CHANNEL_ARGS)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def send(self, call: Call) -> Outcome:
        """Sends one call and waits for what comes of it, at most :data:`HANG_S`."""
        if call.method:
            return self._stream(call) if call.stream else self._unary(call)
        try:
            code, seconds = sockets.send(*self._target.address(call.port), call.body)
        except OSError as error:
            return Outcome("UNAVAILABLE", f"connect: {error}", 0)
        return Outcome(code, "", seconds)

    def _unary(self, call: Call) -> Outcome:
        method = self._channel.unary_unary(call.method)
        sent = call.body.replace(INSIDE.encode(), self._inside)
        begun = time.perf_counter()
        try:
            body = method(sent, timeout=HANG_S)
        except grpc.RpcError as error:
            return _refused(error, time.perf_counter() - begun)
        return Outcome("OK", "", time.perf_counter() - begun, body)

    def _stream(self, call: Call) -> Outcome:
        method = self._channel.stream_stream(call.method)
        begun = time.perf_counter()
        answers = []
        try:
            answers = list(method(iter([call.body]), timeout=HANG_S))
        except grpc.RpcError as error:
            return _refused(error, time.perf_counter() - begun)
        seconds = time.perf_counter() - begun
        read = [pb.ModelStreamInferResponse.FromString(answer) for answer in answers]
        for each in read:
            if each.error_message:
                return Outcome(_stream_code(each.error_message), each.error_message, seconds)
        last = read[-1].infer_response.SerializeToString() if read else b""
        refused = _refusal(Answer(last).tensors)
        if refused is not None:
            return Outcome(refused.code, refused.to_status_message(), seconds)
        return Outcome("OK", "", seconds, last)


def _refused(error: Any, seconds: float) -> Outcome:
    return Outcome(error.code().name, error.details() or "", seconds)


def _refusal(tensors: Mapping[str, bytes]) -> ErrorDetail | None:
    """What the last event of a stream says went wrong, if it does."""
    if EVENT_OUTPUT not in tensors:
        return None
    event = parse_event(tensors[EVENT_OUTPUT])
    return event.error if isinstance(event, ErrorEvent) else None


def _stream_code(text: str) -> str:
    """A stream's errors carry no code; the contract's line does, and what it lacks is Triton's."""
    detail = ErrorDetail.from_status_message(text)
    if detail is not None:
        return detail.code
    return "INTERNAL" if "internal" in text.lower() or "not healthy" in text else "INVALID_ARGUMENT"


class Answer:
    """A ``ModelInferResponse``: its id, and its tensors by name as bytes."""

    def __init__(self, body: bytes) -> None:
        read = pb.ModelInferResponse.FromString(body)
        self.request_id: str = read.id
        names = [output.name for output in read.outputs]
        self.tensors = dict(zip(names, read.raw_output_contents, strict=False))

    @property
    def report(self) -> Any:
        """The report without what differs from time to time; None where there is none."""
        if "report" not in self.tensors:
            return None
        document = json.loads(self.tensors["report"])
        del document["times_s"], document["request_id"]
        for seg in document["segs"]:
            del seg["sample_s"]
        return document

    def differs(self, expected: Answer) -> str | None:
        """What differs from the answer that is expected; None where nothing does."""
        if self.report != expected.report:
            return f"report {self.report} instead of {expected.report}"
        for name in ("detailed_image", "detailed_segs"):
            mine, theirs = (
                np.frombuffer(each.tensors.get(name, b""), np.uint8).astype(np.int16)
                for each in (self, expected)
            )
            if (
                mine.shape != theirs.shape
                or np.abs(mine - theirs).max(initial=0) > _MOST_DIFFERENCE
            ):
                return f"{name} differs"
        return None
