"""A tiny request that only a server whose parts are all alive can answer.

Triton's health calls say ready even after a model's process has died or hangs.
"""

from __future__ import annotations

import functools
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from pipelines import PipelineDescriptor
from segs_client.contract import MODEL_NAME, STREAM_MODEL_NAME, ContractError
from segs_client.events import EVENT_OUTPUT, ErrorEvent, ResultEvent, parse_event
from serving.connection import Connection
from serving.errors import CanaryError

_SIDE_PX = 64


@dataclass(frozen=True)
class Canary:
    """A tiny request through a pipeline's networks, with one of its ControlNets or none."""

    pipeline: str
    controlnet: str | None = None
    streamed: bool = False
    """Through the front end of streams."""

    def __str__(self) -> str:
        controlnet = f" with ControlNet {self.controlnet!r}" if self.controlnet else ""
        return f"pipeline {self.pipeline!r}{controlnet}" + (", streamed" if self.streamed else "")


def canaries(pipelines: Iterable[PipelineDescriptor]) -> tuple[Canary, ...]:
    """Those that go through every model of these pipelines, and both front ends."""
    found = [
        Canary(each.name, controlnet)
        for each in pipelines
        for controlnet in (None, *each.controlnets)
    ]
    return (*found, *(Canary(each.pipeline, streamed=True) for each in found[:1]))


def canary_request(canary: Canary) -> dict[str, Any]:
    """The request's JSON: one step on one small SEG, and no picture back."""
    return {
        "pipeline": canary.pipeline,
        "controlnets": [] if canary.controlnet is None else [{"name": canary.controlnet}],
        "steps": 1,
        "guide_size": _SIDE_PX,
        "max_size": _SIDE_PX,
        "image": {"encoding": "raw", "shape": [_SIDE_PX, _SIDE_PX, 3]},
        "segs": {"items": [{"bbox": [16, 16, 48, 48]}]},
        "output": {"image": "none"},
    }


def run_canary(
    server: Connection,
    canary: Canary,
    timeout_s: float,
    stop_asked: threading.Event | None = None,
) -> float:
    """Sends one canary and returns how long the answer took, in seconds.

    Raises:
        CanaryError: it failed, took longer than ``timeout_s``, or ``stop_asked`` was set.
    """
    answers: SimpleQueue[Exception | None] = SimpleQueue()
    begun = time.monotonic()
    # Not sampled: it is of no use among the traces.
    untraced = {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"}
    with server.open() as client:
        try:
            headers = {**server.headers, **untraced}
            cancel = _send(client, canary, answers, timeout_s, headers, server.parameters)
        except InferenceServerException as ended:  # the stream, before it was used
            raise CanaryError(f"{canary}: {ended}") from ended
        while stop_asked is None or not stop_asked.is_set():
            try:
                error = answers.get(timeout=0.05)
            except Empty:
                if time.monotonic() - begun > timeout_s + 1:
                    late = f"{canary}: no answer in {timeout_s:g} s"
                    raise CanaryError(late) from None
                continue
            if error is not None:
                raise CanaryError(f"{canary}: {error}")
            return time.monotonic() - begun
        cancel()
    raise CanaryError(f"{canary}: stopped while waiting for the answer")


def _send(
    client: grpc.InferenceServerClient,
    canary: Canary,
    answers: SimpleQueue[Exception | None],
    timeout_s: float,
    headers: dict[str, str],
    parameters: Mapping[str, str],
) -> Callable[[], object]:
    """Returns what cancels it."""
    request = grpc.InferInput("request", [1], "BYTES")
    text = json.dumps(canary_request(canary)).encode()
    request.set_data_from_numpy(np.array([text], dtype=np.object_))
    pixels = np.full(_SIDE_PX * _SIDE_PX * 3, 128, dtype=np.uint8)
    image = grpc.InferInput("image", list(pixels.shape), "UINT8")
    image.set_data_from_numpy(pixels)
    asked = {
        "inputs": [request, image],
        "request_id": f"canary-{canary.pipeline}",
        "parameters": dict(parameters),
    }
    if canary.streamed:
        client.start_stream(
            lambda result, error: _take(answers, result, error),
            stream_timeout=timeout_s,
            headers=headers,
        )
        client.async_stream_infer(STREAM_MODEL_NAME, **asked)
        return functools.partial(client.stop_stream, cancel_requests=True)
    call = client.async_infer(
        MODEL_NAME,
        callback=lambda result, error: answers.put(error),
        client_timeout=timeout_s,
        headers=headers,
        **asked,
    )
    cancel: Callable[[], object] = call.cancel
    return cancel


def _take(answers: SimpleQueue[Exception | None], result: Any, error: Exception | None) -> None:
    """Takes one response of a stream; only the last one is the answer."""
    if error is not None:
        answers.put(error)
        return
    event = parse_event(result.as_numpy(EVENT_OUTPUT).tobytes())
    if isinstance(event, ErrorEvent):
        answers.put(ContractError(event.error))
    elif isinstance(event, ResultEvent):
        answers.put(None)
