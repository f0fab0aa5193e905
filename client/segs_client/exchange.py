"""What the clients do for a call, as programs of steps.

A program is a generator that yields a :data:`ClientStep` and is sent its result, or thrown its
error. The sync client runs one in its thread, the async client in its event loop. All else (which
server is asked, what is repeated, what is an error) is here, once.
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
FOLLOW = "follow"
"""A method that the clients have beside those of tritonclient: opens a stream, and leads to its
updates and the first of them."""

log = logging.getLogger("segs_client")


@dataclass(frozen=True)
class ClientCall:
    """A method of tritonclient's client of one server; leads to what it returns."""

    server: int
    method: str
    arguments: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Pause:
    """Seconds in which nothing is done, for a request if it has an id; leads to None, or
    Cancelled."""

    seconds: float
    request_id: str | None = None


ClientStep: TypeAlias = ClientCall | Pause
T = TypeVar("T")
ClientProgram: TypeAlias = Generator[ClientStep, Any, T]


@dataclass(frozen=True)
class Answered:
    """What a request led to.

    Attributes:
        answer: tritonclient's ``InferResult``, or what :data:`FOLLOW` leads to.
        url: who answered.
        tries: how many requests it took.
        elsewhere: outputs that came by shared memory, by name.
    """

    answer: Any
    url: str
    tries: int
    elsewhere: Mapping[str, ByteArray] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A request that is to be sent.

    Attributes:
        arguments: of the method; each try gets the time-outs of what is left.
        request_id: for errors.
        work: by :func:`~segs_client.work.estimated_work`.
        timeout_s: for all tries together.
        room: in shared memory for its pictures; None: they go by gRPC.
        method: tritonclient's ``infer``, or :data:`FOLLOW`.
        span: that it is in, of :func:`traced`.
    """

    arguments: Mapping[str, Any] = field(repr=False)
    request_id: str
    work: float
    timeout_s: float
    room: RegionSpec | None = None
    method: str = "infer"
    span: RequestSpan = RequestSpan()  # noqa: RUF009 - never changed


@contextlib.contextmanager
def traced(asked: Asked) -> Iterator[Asked]:
    """The same request within a span of its own, which ends with the block."""
    name = "segs_client.stream" if asked.method == FOLLOW else "segs_client.detail"
    with request_span(name, asked.request_id) as span:
        headers = {**asked.arguments["headers"], **span.headers()}
        yield replace(asked, arguments={**asked.arguments, "headers": headers}, span=span)


def inference(asked: Asked, servers: Servers, retries: Retries) -> ClientProgram[Answered]:
    """Sends a request, again where that may help.

    Raises:
        SegsError: what the last try ended with.
    """
    deadline = time.monotonic() + asked.timeout_s
    tries = losses = failed_rounds = 0
    while True:
        refusals: dict[Server, ServerUnavailable] = {}
        while len(refusals) < len(servers):
            server, outcome = yield from _try(asked, servers, refusals, deadline)
            tries += 1
            if not isinstance(outcome, ServerUnavailable):
                answer, elsewhere = outcome
                asked.span.note(server=server.url, tries=tries)
                return Answered(answer, server.url, tries, elsewhere)
            refusals[server] = outcome
            losses += outcome.is_loss
            left_s = deadline - time.monotonic()
            if losses >= retries.losses or left_s <= 0:
                raise outcome
            pause_s: float | None = 0.0
            if len(refusals) == len(servers):
                failed_rounds += any(not each.is_refusal for each in refusals.values())
                pause_s = retries.pause_s(failed_rounds, list(refusals.values()), left_s)
            if pause_s is None:  # a refusal has the time to try again
                raise min(refusals.values(), key=lambda each: not each.is_refusal)
            _tell(retries, Retry(asked.request_id, tries, server.url, outcome, pause_s))
            if pause_s:
                yield Pause(pause_s, asked.request_id)


def traced_inference(asked: Asked, servers: Servers, retries: Retries) -> ClientProgram[Answered]:
    """:func:`inference` within a span."""
    with traced(asked) as inside:
        return (yield from inference(inside, servers, retries))


def readiness(servers: Servers, timeout_s: float) -> ClientProgram[None]:
    """Waits until one of the servers and its detailer's model accept requests.

    Raises:
        ServerUnavailable: not within ``timeout_s``; the message has what was last seen.
    """
    end = time.monotonic() + timeout_s
    while True:
        left_s = end - time.monotonic()
        seen = yield from obstacle(servers, min(max(left_s, 0.05), LONGEST_PROBE_S))
        if seen is None:
            return
        if time.monotonic() + PROBE_PAUSE_S >= end:
            raise ServerUnavailable(
                f"{', '.join(servers.urls)} not ready after {timeout_s:g} s; last seen: {seen}"
            )
        yield Pause(PROBE_PAUSE_S)


def obstacle(servers: Servers, timeout_s: float) -> ClientProgram[str | None]:
    """What keeps every server from answering requests now, or None."""
    seen = None
    for index in range(len(servers)):
        seen = yield from _obstacle(index, timeout_s)
        if seen is None:
            return None
    return seen


def _try(
    asked: Asked, servers: Servers, refused_by: Collection[Server], deadline: float
) -> ClientProgram[tuple[Server, Any]]:
    """Sends a request to the best server that has not refused it.

    Returns:
        The server, and its answer (and outputs that are not in there) or how it was unavailable.

    Raises:
        SegsError: another try would end like this one.
    """
    with servers.chosen(asked.work, but=refused_by) as (server, is_doubtful):
        sent_s = time.monotonic()
        try:
            if is_doubtful:
                yield from _require_ready(server, deadline - sent_s)
            answer = yield from _send(asked, server, deadline)
        except (*TRANSPORT_ERRORS, ServerUnavailable) as error:
            told = _told(error, asked.request_id)
            if isinstance(told, ServerUnavailable):
                servers.fails(server, sent_s, told)
                return server, told
            if isinstance(told, (InvalidRequest, Unauthenticated)):
                servers.works(server, sent_s)
            elif isinstance(told, ServerError):
                servers.errs(server, sent_s, told)
            raise told from error
        servers.works(server, sent_s, asked.work)
        return server, answer


def _send(
    asked: Asked, server: Server, deadline: float
) -> ClientProgram[tuple[Any, Mapping[str, ByteArray]]]:
    if asked.room is None:
        return (yield _call(asked, asked.arguments, server, deadline)), {}
    limit = {"headers": asked.arguments["headers"], "client_timeout": LONGEST_PROBE_S}
    with Region(asked.room) as region:
        yield ClientCall(
            server.index, "register_system_shared_memory", {**region.registration(), **limit}
        )
        try:
            answer = yield _call(asked, region.arguments(asked.arguments), server, deadline)
            return answer, region.results(answer)
        finally:
            with contextlib.suppress(*TRANSPORT_ERRORS):  # its own error is the one to be told
                forget = {"name": region.name, **limit}
                yield ClientCall(server.index, "unregister_system_shared_memory", forget)


def _call(
    asked: Asked, arguments: Mapping[str, Any], server: Server, deadline: float
) -> ClientCall:
    left_s = max(deadline - time.monotonic(), 0.001)
    return ClientCall(server.index, asked.method, {**arguments, **time_arguments(left_s)})


def _told(error: Exception, request_id: str) -> SegsError:
    if isinstance(error, ServerUnavailable):
        return error
    told = from_transport(error, request_id=request_id)
    told.__cause__ = error
    return told


def _tell(retries: Retries, retry: Retry) -> None:
    log.info(
        "request %s: %s was %s (%s); try %d in %.2f s",
        retry.request_id, retry.url, retry.error.code, retry.error.message, retry.tries + 1,
        retry.pause_s,
    )  # fmt: skip
    if retries.on_retry is not None:
        retries.on_retry(retry)


def _require_ready(server: Server, timeout_s: float) -> ClientProgram[None]:
    seen = yield from _obstacle(server.index, max(min(PROBE_S, timeout_s), 0.05))
    if seen is not None:
        raise ServerUnavailable(f"{server.url}: {seen}")


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
        seen = from_transport(error)
        return f"{seen.code}: {seen.message}"
    return None
