"""Every call of a run, made from the run's seed and the call's number alone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tritonclient.grpc import service_pb2 as pb

from tests.fuzz import documents, messages, pictures, sockets
from tests.fuzz.models import Material, Model, flat, text_tensor

Port = Literal["grpc", "health", "grpc_health"]
FRONT = "segs_detailer"
STREAM_FRONT = "segs_detailer_stream"
STAGES = ("prepare", "sample", "composite")
ENSEMBLE = "segs_detailer_stages"

SHARES: Mapping[str, int] = {
    "request": 25,
    "picture": 15,
    "buffers": 10,
    "message": 17,
    "stage": 6,
    "network": 12,
    "bytes": 5,
    "method": 3,
    "stream": 2,
    "socket": 2,
    "valid": 3,
}
"""Kinds of calls and how many of a hundred are of each."""

PREFIX = "/inference.GRPCInferenceService/"
_METHODS = (
    "ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig",
    "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
    "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister",
    "TraceSetting", "LogSettings", "Nobody", "",
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call."""

    number: int
    kind: str
    method: str
    """Full path of a gRPC method; empty for bytes on a bare connection."""
    body: bytes
    port: Port = "grpc"
    stream: bool = False
    request_id: str = ""
    valid: int | None = None
    """Which of :meth:`Calls.valid` it is."""


class Calls:
    """The calls of one run.

    Args:
        models: those of the server, by name.
        pipelines: a pipeline's networks, by the start of their names.
    """

    def __init__(self, seed: int, models: Mapping[str, Model], material: Material) -> None:
        self._seed = seed
        self._models = models
        self._material = material
        names = sorted(models)
        self._fronts = [name for name in names if name in (FRONT, ENSEMBLE)]
        self._stages = [name for name in names if name in STAGES]
        others = (*self._fronts, *self._stages, STREAM_FRONT)
        self._networks = [name for name in names if name not in others]
        self.valid = [self._valid(number) for number in range(6)]

    def call(self, number: int) -> Call:
        """The call of that number; always the same for the same seed."""
        rng = random.Random(f"{self._seed}/{number}")
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        while (call := self._made(rng, number, kind)) is None:
            pass
        return call

    def valid_call(self, which: int, number: int = 0) -> Call:
        """One of the valid requests as a call."""
        made = pb.ModelInferRequest.FromString(self.valid[which])
        made.id = f"fuzz-{number}"
        made.parameters["timeout"].int64_param = 9_000_000
        return self._infer(number, "valid", made, made.id, valid=which)

    def _made(self, rng: random.Random, number: int, kind: str) -> Call | None:
        request_id = f"fuzz-{number}"
        if kind == "socket":
            return self._socket(rng, number)
        if kind == "method":
            return self._method(rng, number)
        if kind == "valid":
            return self.valid_call(rng.randrange(len(self.valid)), number)
        made = self._message(rng, kind, request_id)
        if made is None:
            return None
        if kind == "bytes":
            body = messages.hostile_bytes(rng, made)
            return Call(number, kind, f"{PREFIX}ModelInfer", body, request_id=request_id)
        return self._infer(number, kind, made, made.id)

    def _message(self, rng: random.Random, kind: str, request_id: str) -> Any:
        material, models = self._material, self._models
        if kind == "request":
            return messages.hostile_request(rng, material, request_id)
        if kind == "picture":
            return messages.hostile_picture(rng, material, request_id)
        if kind == "buffers":
            return messages.hostile_buffers(rng, material, request_id)
        if kind == "stage":
            model = models[rng.choice([*self._stages, *self._fronts])]
            if rng.random() < 0.6:
                return messages.hostile_stage(rng, material, model, request_id)
            return messages.hostile_message(rng, material, model, request_id)
        if kind == "network":
            model = models[rng.choice(self._networks)]
            made = messages.hostile_message(rng, material, model, request_id)
            if not messages.can_exist(made):  # Triton 2.51's Python stub ends there
                return None
            if rng.random() < 0.7:  # most get further than strangers do
                made.parameters["inside"].string_param = messages.INSIDE
            return made
        if kind == "bytes":
            model = models[rng.choice([*self._fronts, *self._models])]
            return messages.message(model.name, material.tensors(rng, model), request_id)
        front = FRONT
        if kind == "stream" and rng.random() < 0.7:  # the other answers on streams as well
            front = STREAM_FRONT
        return messages.hostile_message(rng, material, models[front], request_id)

    def _infer(
        self, number: int, kind: str, made: Any, request_id: str, valid: int | None = None
    ) -> Call:
        stream = kind == "stream"
        method = f"{PREFIX}{'ModelStreamInfer' if stream else 'ModelInfer'}"
        body = made.SerializeToString()
        return Call(number, kind, method, body, "grpc", stream, request_id, valid)

    def _method(self, rng: random.Random, number: int) -> Call:
        method = f"{PREFIX}{rng.choice(_METHODS)}"
        if rng.random() < 0.1:
            method = rng.choice(["/grpc.health.v1.Health/Check", "/x", "/a/b/c", "/é/%00"])
        asked = pb.ModelConfigRequest(name=rng.choice([*self._models, "", "../x", "\x00"]))
        body = asked.SerializeToString()
        if rng.random() < 0.5:
            body = rng.randbytes(rng.randrange(60))
        return Call(number, "method", method, body)

    def _socket(self, rng: random.Random, number: int) -> Call:
        ports: tuple[Port, ...] = ("grpc", "health", "grpc_health")
        port = rng.choice(ports)
        http2 = rng.random() < (0.2 if port == "health" else 0.7)
        data = sockets.hostile_http2(rng) if http2 else sockets.hostile_http(rng)
        return Call(number, "socket", "", data, port)

    def _valid(self, number: int) -> bytes:
        rng = random.Random(f"{self._seed}/valid/{number}")
        document = documents.valid(rng, self._material.pipeline)
        document["output"] = {"image": "raw", "seg_images": "uint8"}
        tensors = [text_tensor("request", documents.dumps(document))]
        tensors.append(flat("image", pictures.raw_pixels()))
        made = messages.message(FRONT, tensors, "")
        body: bytes = made.SerializeToString()
        return body
