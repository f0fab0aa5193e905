"""A gRPC server in this process that does to a request what the request's id says."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from tritonclient.grpc.service_pb2 import ModelInferResponse, ModelStreamInferResponse
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from segs_client.contract import ErrorDetail

DETAILS = {
    "later": ErrorDetail(code="UNAVAILABLE", message="full", retry_after_s=0.05),
    "never": ErrorDetail(code="UNAVAILABLE", message="full"),
    "wrong": ErrorDetail(code="INVALID_ARGUMENT", message="steps: too small", field="steps"),
    "broken": ErrorDetail(code="INTERNAL", message="failed"),
}
REPORT = {"request_id": "", "segs": [{"status": "enhanced", "sample_s": 0.1}], "times_s": {"a": 1}}


def response(request_id: str, event: str | None = None) -> ModelInferResponse:
    """An answer."""
    status = "failed" if request_id.startswith("failed") else "enhanced"
    report = {**REPORT, "request_id": request_id, "segs": [{"status": status, "sample_s": 0.1}]}
    outputs = {"report": json.dumps(report).encode(), "detailed_image": b"\x80" * 12}
    if event is not None:
        outputs["event"] = json.dumps({"event": event}).encode()
    answer = ModelInferResponse()
    for name, data in outputs.items():
        answer.outputs.add(name=name, datatype="UINT8", shape=[len(data)])
        answer.raw_output_contents.append(data)
    return answer


class _Scripted(GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.over = threading.Event()
        self.seen: list[str] = []

    def ModelInfer(self, request: Any, context: Any) -> ModelInferResponse:  # noqa: N802
        word = request.id.partition("-")[0]
        again = request.id in self.seen
        self.seen.append(request.id)
        if word == "silent":
            self.over.wait(20)
        if word == "lost":
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        if word in DETAILS and not (word == "later" and again):
            detail = DETAILS[word]
            context.abort(getattr(grpc.StatusCode, detail.code), detail.to_status_message())
        return response(request.id)

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        request = next(requests)
        word = request.id.partition("-")[0]
        yield ModelStreamInferResponse(infer_response=response(request.id, "accepted"))
        if word in DETAILS:
            last = response(request.id, "error")
            event = {"event": "error", "error": DETAILS[word].model_dump()}
            last.raw_output_contents[-1] = json.dumps(event).encode()
            yield ModelStreamInferResponse(infer_response=last)
        elif word == "message":
            yield ModelStreamInferResponse(error_message="failed")
        elif word != "ended":
            yield ModelStreamInferResponse(infer_response=response(request.id, "result"))


@contextlib.contextmanager
def scripted() -> Iterator[str]:
    """The address of such a server, on a free port."""
    servicer = _Scripted()
    with ThreadPoolExecutor(16) as pool:
        server = grpc.server(pool)
        add_GRPCInferenceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            servicer.over.set()
            server.stop(grace=None).wait()
