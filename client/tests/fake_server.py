"""A tiny gRPC server that speaks Triton's protocol, for tests of the clients' transport."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

Handler = Callable[[Any, grpc.ServicerContext], dict[str, bytes]]
Streamer = Callable[[Any, grpc.ServicerContext], Iterator[dict[str, bytes]]]


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers ``ModelInfer`` with what ``handler`` returns, output name to raw bytes; and
    ``ModelStreamInfer`` with what ``streamer`` yields of such."""

    def __init__(
        self, handler: Handler, model_ready: bool = True, streamer: Streamer | None = None
    ) -> None:
        self.handler = handler
        self.streamer = streamer
        self.model_ready = model_ready
        self.requests: list[Any] = []

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=self.model_ready)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.requests.append(request)
        return _response(request, self.handler(request, context))

    def ModelStreamInfer(  # noqa: N802
        self, requests: Iterator[Any], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        assert self.streamer is not None
        for request in requests:
            self.requests.append(request)
            for outputs in self.streamer(request, context):
                answer = _response(request, outputs)
                yield service_pb2.ModelStreamInferResponse(infer_response=answer)


def _response(request: Any, outputs: dict[str, bytes]) -> Any:
    response = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
    for name, data in outputs.items():
        response.outputs.add(name=name, datatype="UINT8", shape=[len(data)])
        response.raw_output_contents.append(data)
    return response


def silent(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
    """Does not answer before the client has gone."""
    gone = threading.Event()
    context.add_callback(gone.set)
    gone.wait(60)
    return {}


def inputs_of(request: Any) -> dict[str, bytes]:
    """Raw bytes of every input; the text's own of a BYTES [1] input."""
    found = {}
    for tensor, data in zip(request.inputs, request.raw_input_contents, strict=True):
        found[tensor.name] = data[4:] if tensor.datatype == "BYTES" else data
    return found


@contextlib.contextmanager
def serving(fake: FakeTriton, port: int = 0) -> Iterator[str]:
    """Runs ``fake`` on a port of loopback, 0 for a free one, and yields its address."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=unlimited)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=0).wait()
