"""Single requests as they are on the wire, and their answers."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from benchmarks.supervised import PIPELINE, Supervised
from segs_client.contract import MODEL_NAME, ErrorDetail
from serving.canary import Canary, canary_request
from tests.faults.row import allowed_s, require

SIDE_PX = 64
PIXELS = np.full(SIDE_PX * SIDE_PX * 3, 128, np.uint8).tobytes()
"""The picture of :func:`small`."""
_SECRETS = (".py", "/tmp", "Traceback", "/dev/shm", "shm key")
"""What no error may show."""
_TIMEOUT_S = 20.0


def small(**changes: Any) -> dict[str, Any]:
    """The JSON of a tiny request, with other values where they are given."""
    return {**canary_request(Canary(PIPELINE)), **changes}


def infer(
    body: bytes | dict[str, Any],
    image: bytes = PIXELS,
    *,
    request_id: str = "from-me",
    **tensors: bytes,
) -> ModelInferRequest:
    """A request for the front end: its JSON, its picture, and other UINT8 tensors by name."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = ModelInferRequest(model_name=MODEL_NAME, id=request_id)
    add_input(request, "request", "BYTES", [1], struct.pack("<I", len(text)) + text)
    for name, data in {"image": image, **tensors}.items():
        add_input(request, name, "UINT8", [len(data)], data)
    return request


def add_input(
    request: ModelInferRequest, name: str, kind: str, shape: Sequence[int], data: bytes
) -> None:
    """One more input, its values as raw contents."""
    request.inputs.add(name=name, datatype=kind, shape=shape)
    request.raw_input_contents.append(data)


@dataclass(frozen=True)
class Answer:
    """What came: the contract's code (``OK`` for a result) or, without a detail, gRPC's."""

    code: str
    text: str
    seconds: float
    detail: ErrorDetail | None = None

    @property
    def refused(self) -> bool:
        """Whether it was refused as the sender's mistake."""
        return self.code in ("INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND")


@contextmanager
def open_stub(server: Supervised) -> Iterator[GRPCInferenceServiceStub]:
    """gRPC's own client, over a connection of its own."""
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(server.url, options=options) as channel:
        yield GRPCInferenceServiceStub(channel)


def send(
    server: Supervised,
    request: ModelInferRequest,
    timeout_s: float = _TIMEOUT_S,
    headers: Sequence[tuple[str, str]] = (),
) -> Answer:
    """Sends it over a connection of its own."""
    begun = time.monotonic()
    with open_stub(server) as stub:
        try:
            stub.ModelInfer(request, timeout=timeout_s, metadata=headers)
        except grpc.RpcError as error:
            text = error.details() or ""
            detail = ErrorDetail.from_status_message(text)
            code = error.code().name if detail is None else detail.code
            return Answer(code, text, time.monotonic() - begun, detail)
    return Answer("OK", "", time.monotonic() - begun)


def require_refused(answers: dict[str, Answer], limit_s: float = 2.0) -> str:
    """Each was refused as the sender's fault, soon, and shows nothing of the server; in words.

    Raises:
        PromiseBroken: one was not.
    """
    for name, answer in answers.items():
        require(answer.refused, f"{name}: {answer.code}: {answer.text}")
        require(answer.seconds <= allowed_s(limit_s), f"{name}: after {answer.seconds:.2f} s")
        require_nothing_shown(name, answer)
    slowest = max(answers.values(), key=lambda answer: answer.seconds)
    return f"{len(answers)} refused, the slowest after {slowest.seconds * 1e3:.0f} ms"


def require_nothing_shown(name: str, answer: Answer) -> None:
    """
    Raises:
        PromiseBroken: the error has a path, a trace or a key in it.
    """
    shown = [secret for secret in _SECRETS if secret in answer.text]
    require(not shown, f"{name}: {answer.text!r} shows {shown}")
