"""The clients' calls as programs of steps.

A program is a generator that yields a :data:`ClientStep` and is sent its result, or thrown its
error. The sync client runs a program in its thread, the async client in its event loop. The choice
of the server, the retries and the errors are in this file, for both.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

import grpc
from tritonclient.utils import InferenceServerException

from segs_client.arrays import ByteArray
from segs_client.contract import MODEL_NAME
from segs_client.errors import (
    Cancelled,
    InvalidRequest,
    SegsError,
    ServerError,
    ServerUnavailable,
    Unauthenticated,
    from_transport,
)
from segs_client.retries import Retries, Retry
from segs_client.servers import PROBE_S, Server, Servers
from segs_client.shared_memory import Region, RegionSpec
from segs_client.tracing import RequestSpan, request_span
from segs_client.transport import time_arguments

TRANSPORT_ERRORS = (InferenceServerException, grpc.RpcError)
PROBE_PAUSE_S = 0.2
LONGEST_PROBE_S = 5.0
REGION_IN_USE = "currently in use"
"""In Triton's message; servers from 2.52 on unregister a region later instead of refusing."""
RELEASE_PAUSE_S = 0.02
LONGEST_RELEASE_S = 2.0
FOLLOW = "follow"
"""A method of the clients beside those of tritonclient: opens a stream and returns its updates and
the first of them."""

log = logging.getLogger("segs_client")


@dataclass(frozen=True)
class ClientCall:
    """A call of tritonclient's client for one server; its result is sent to the program."""

    server: int
    method: str
    arguments: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Pause:
    """A pause, of a request if it has an id; it raises Cancelled if the request is cancelled."""

    seconds: float
    request_id: str | None = None


ClientStep: TypeAlias = ClientCall | Pause
T = TypeVar("T")
ClientProgram: TypeAlias = Generator[ClientStep, Any, T]


@dataclass(frozen=True)
class ClientResponse:
    """The response to a request.

    Attributes:
        answer: tritonclient's ``InferResult``, or the result of :data:`FOLLOW`.
        url: the server.
        tries: the number of tries.
        elsewhere: outputs received by shared memory, by name.
    """

    answer: Any
    url: str
    tries: int
    elsewhere: Mapping[str, ByteArray] = field(default_factory=dict)


@dataclass(frozen=True)
class OutgoingRequest:
    """A request to be sent.

    Attributes:
        arguments: of the method; each try gets the remaining time as its time-out.
        request_id: for errors.
        work: by :func:`~segs_client.work.estimated_work`.
        timeout_s: of all tries together.
        room: shared memory for its pictures; None: they are sent by gRPC.
        method: tritonclient's ``infer``, or :data:`FOLLOW`.
        span: set by :func:`traced`.
    """

    arguments: Mapping[str, Any] = field(repr=False)
    request_id: str
    work: float
    timeout_s: float
    room: RegionSpec | None = None
    method: str = "infer"
    span: RequestSpan = RequestSpan()  # noqa: RUF009 - never changed


@contextlib.contextmanager
def traced(request: OutgoingRequest) -> Iterator[OutgoingRequest]:
    """The request with a new span, which ends with the block."""
    name = "segs_client.stream" if request.method == FOLLOW else "segs_client.detail"
    with request_span(name, request.request_id) as span:
        headers = {**request.arguments["headers"], **span.headers()}
        yield replace(request, arguments={**request.arguments, "headers": headers}, span=span)


def inference(
    request: OutgoingRequest, servers: Servers, retries: Retries
) -> ClientProgram[ClientResponse]:
    """Sends a request, with retries.

    Raises:
        SegsError: the error of the last try.
    """
    deadline = time.monotonic() + request.timeout_s
    tries = losses = failed_rounds = 0
    while True:
        refusals: dict[Server, ServerUnavailable] = {}
        while len(refusals) < len(servers):
            server, outcome = yield from _try(request, servers, refusals, deadline)
            tries += 1
            if not isinstance(outcome, ServerUnavailable):
                answer, elsewhere = outcome
                request.span.note(server=server.url, tries=tries)
                return ClientResponse(answer, server.url, tries, elsewhere)
            refusals[server] = outcome
            losses += outcome.is_loss
            left_s = deadline - time.monotonic()
            if losses >= retries.losses or left_s <= 0:
                raise outcome
            pause_s: float | None = 0.0
            if len(refusals) == len(servers):
                failed_rounds += any(not each.is_refusal for each in refusals.values())
                pause_s = retries.pause_s(failed_rounds, list(refusals.values()), left_s)
            if pause_s is None:  # prefer a refusal, which has a time to try again
                raise min(refusals.values(), key=lambda each: not each.is_refusal)
            _log_retry(retries, Retry(request.request_id, tries, server.url, outcome, pause_s))
            if pause_s:
                yield Pause(pause_s, request.request_id)


def traced_inference(
    request: OutgoingRequest, servers: Servers, retries: Retries
) -> ClientProgram[ClientResponse]:
    """:func:`inference` within a span."""
    with traced(request) as inside:
        return (yield from inference(inside, servers, retries))


def readiness(servers: Servers, timeout_s: float) -> ClientProgram[None]:
    """Waits until one of the servers and its detailer's model accept requests.

    Raises:
        ServerUnavailable: not within ``timeout_s``; the message has the last state.
    """
    end = time.monotonic() + timeout_s
    while True:
        left_s = end - time.monotonic()
        reason = yield from obstacle(servers, min(max(left_s, 0.05), LONGEST_PROBE_S))
        if reason is None:
            return
        if time.monotonic() + PROBE_PAUSE_S >= end:
            raise ServerUnavailable(
                f"{', '.join(servers.urls)} not ready after {timeout_s:g} s; last seen: {reason}"
            )
        yield Pause(PROBE_PAUSE_S)


def obstacle(servers: Servers, timeout_s: float) -> ClientProgram[str | None]:
    """None if a server accepts requests, else the reason why the last one does not."""
    reason = None
    for index in range(len(servers)):
        reason = yield from _obstacle(index, timeout_s)
        if reason is None:
            return None
    return reason


def _try(
    request: OutgoingRequest, servers: Servers, refused_by: Collection[Server], deadline: float
) -> ClientProgram[tuple[Server, Any]]:
    """Sends a request to the best server that has not refused it.

    Returns:
        The server, and its answer with the outputs in shared memory, or its ServerUnavailable.

    Raises:
        SegsError: another try would have the same error.
    """
    with servers.chosen(request.work, but=refused_by) as (server, needs_probe):
        sent_s = time.monotonic()
        try:
            if needs_probe:
                yield from _require_ready(server, deadline - sent_s)
            answer = yield from _send(request, server, deadline)
        except (*TRANSPORT_ERRORS, ServerUnavailable) as error:
            mapped = _as_segs_error(error, request.request_id)
            if isinstance(mapped, ServerUnavailable):
                servers.record_unavailable(server, sent_s, mapped)
                return server, mapped
            if isinstance(mapped, (InvalidRequest, Unauthenticated)):
                servers.record_success(server, sent_s)
            elif isinstance(mapped, ServerError):
                servers.record_error(server, sent_s, mapped)
            raise mapped from error
        servers.record_success(server, sent_s, request.work)
        return server, answer


def _send(
    request: OutgoingRequest, server: Server, deadline: float
) -> ClientProgram[tuple[Any, Mapping[str, ByteArray]]]:
    if request.room is None:
        return (yield _call(request, request.arguments, server, deadline)), {}
    limit = {"headers": request.arguments["headers"], "client_timeout": LONGEST_PROBE_S}
    with Region(request.room) as region:
        yield ClientCall(
            server.index, "register_system_shared_memory", {**region.registration(), **limit}
        )
        try:
            answer = yield _call(request, region.arguments(request.arguments), server, deadline)
            return answer, region.results(answer)
        finally:
            yield from _unregister(server, {"name": region.name, **limit})


def _unregister(server: Server, arguments: Mapping[str, Any]) -> ClientProgram[None]:
    """Unregisters a region; logs an error instead of raising, to keep that of the request itself.

    A server refuses while it still uses the region, which lasts a moment beyond the response.
    """
    end = time.monotonic() + LONGEST_RELEASE_S
    while True:
        try:
            yield ClientCall(server.index, "unregister_system_shared_memory", arguments)
            return
        except TRANSPORT_ERRORS as error:
            if REGION_IN_USE not in str(error) or time.monotonic() >= end:
                log.warning(
                    "server %s keeps shared memory %s: %s", server.url, arguments["name"], error
                )
                return
        with contextlib.suppress(Cancelled):  # the client is being closed
            yield Pause(RELEASE_PAUSE_S)


def _call(
    request: OutgoingRequest, arguments: Mapping[str, Any], server: Server, deadline: float
) -> ClientCall:
    left_s = max(deadline - time.monotonic(), 0.001)
    return ClientCall(server.index, request.method, {**arguments, **time_arguments(left_s)})


def _as_segs_error(error: Exception, request_id: str) -> SegsError:
    if isinstance(error, ServerUnavailable):
        return error
    mapped = from_transport(error, request_id=request_id)
    mapped.__cause__ = error
    return mapped


def _log_retry(retries: Retries, retry: Retry) -> None:
    log.info(
        "request %s: %s was %s (%s); try %d in %.2f s",
        retry.request_id, retry.url, retry.error.code, retry.error.message, retry.tries + 1,
        retry.pause_s,
    )  # fmt: skip
    if retries.on_retry is not None:
        retries.on_retry(retry)


def _require_ready(server: Server, timeout_s: float) -> ClientProgram[None]:
    reason = yield from _obstacle(server.index, max(min(PROBE_S, timeout_s), 0.05))
    if reason is not None:
        raise ServerUnavailable(f"{server.url}: {reason}")


def _obstacle(server: int, timeout_s: float) -> ClientProgram[str | None]:
    limit = {"client_timeout": timeout_s}
    try:
        if not (yield ClientCall(server, "is_server_live", limit)):
            return "the server is not live"
        if not (yield ClientCall(server, "is_server_ready", limit)):
            return "the server is live, but not ready: models are loading or have failed"
        if not (yield ClientCall(server, "is_model_ready", {"model_name": MODEL_NAME, **limit})):
            return f"the server is ready, but its model {MODEL_NAME} is not"
    except TRANSPORT_ERRORS as error:
        mapped = from_transport(error)
        return f"{mapped.code}: {mapped.message}"
    return None
