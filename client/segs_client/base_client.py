"""The common base of the synchronous and the async client: all but the waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from segs_client import access, exchange, streaming, transport
from segs_client.access import Tls
from segs_client.boxes import Boxes
from segs_client.errors import InvalidRequest
from segs_client.messages import BuiltRequest, DetailResult, build
from segs_client.pictures import Picture
from segs_client.retries import Retries
from segs_client.segs import Segs
from segs_client.servers import Servers
from segs_client.shared_memory import RegionSpec
from segs_client.streaming import StreamUpdate
from segs_client.waits import Waits
from segs_client.work import estimated_work

DEFAULT_TIMEOUT_S = 300.0
DEFAULT_URL = "127.0.0.1:8001"


class BaseClient:
    """A client's settings, and the parts of a call before and after its transport.

    Args:
        url: host and port of Triton's gRPC. With several, each request is sent to the server with
            the least work of this client, and to another one if it is UNAVAILABLE, see
            :mod:`segs_client.servers`.
        pipeline: the compiled checkpoint of calls that name none.
        timeout_s: default time-out of a call in seconds, retries included.
        api_key: sent with every call, for a server that requires one.
        tls: whether, or with which files, the connection is encrypted. If ``api_key`` or ``tls`` is
            None, the environment is read, see :mod:`segs_client.access`.
        retries: behaviour if no server is available.
        shared_memory: sends the pictures of ``detail`` through shared memory to servers on this
            host that allow it, see :mod:`segs_client.shared_memory`.

    Raises:
        InvalidRequest: an argument is malformed.
        OSError: a certificate cannot be read.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        pipeline: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        api_key: str | None = None,
        tls: Tls | bool | None = None,
        retries: Retries = Retries(),  # noqa: B008 - frozen
        shared_memory: bool = False,
    ) -> None:
        transport.check_timeout(timeout_s)
        self.pipeline = pipeline
        self.timeout_s = timeout_s
        self.retries = retries
        self.shared_memory = shared_memory
        self._servers = Servers(url)
        self._waits = Waits()
        self._headers = access.headers(api_key)
        self._connection = {"channel_args": transport.CHANNEL_ARGS, **access.connection(tls)}
        self._connect()

    def _connect(self) -> None:
        """Creates the channels, unless the first call does."""

    @property
    def urls(self) -> tuple[str, ...]:
        """Host and port of every server."""
        return self._servers.urls

    def _build(
        self,
        image: Picture,
        segs: Segs | Boxes,
        pipeline: str | None,
        options: dict[str, Any],
    ) -> BuiltRequest:
        name = self.pipeline if pipeline is None else pipeline
        if name is None:
            allowed = "the name of a pipeline that the server has"
            raise InvalidRequest(
                f"pipeline: required, as the client has no default; allowed: {allowed}",
                field="pipeline",
                allowed=allowed,
            )
        return build(image, segs, pipeline=name, **options)

    def _request(
        self, built: BuiltRequest, request_id: str | None, timeout_s: float | None
    ) -> exchange.ClientProgram[exchange.ClientResponse]:
        request_id = request_id or transport.new_request_id()
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        arguments = transport.infer_arguments(built, request_id, timeout_s)
        request = exchange.OutgoingRequest(
            {**arguments, "headers": self._headers},
            request_id,
            estimated_work(built.request),
            timeout_s,
            RegionSpec.of(built) if self.shared_memory else None,
        )
        return exchange.traced_inference(request, self._servers, self.retries)

    def _stream_request(
        self, built: BuiltRequest, request_id: str | None, timeout_s: float | None
    ) -> exchange.OutgoingRequest:
        request_id = request_id or transport.new_request_id()
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        arguments = {
            "message": streaming.stream_message(built, request_id, timeout_s),
            "built": built,
            "headers": self._headers,
        }
        work = estimated_work(built.request)
        return exchange.OutgoingRequest(
            arguments, request_id, work, timeout_s, method=exchange.FOLLOW
        )

    @staticmethod
    def _with_server(update: StreamUpdate, response: exchange.ClientResponse) -> StreamUpdate:
        """The update; its result, if any, gets the server and the number of tries."""
        if update.result is None:
            return update
        result = replace(update.result, url=response.url, tries=response.tries)
        return replace(update, result=result)

    @staticmethod
    def _read(built: BuiltRequest, response: exchange.ClientResponse) -> DetailResult:
        result = transport.read_answer(built, response.answer, response.elsewhere)
        return replace(result, url=response.url, tries=response.tries)

    def _obstacle(self, timeout_s: float) -> exchange.ClientProgram[str | None]:
        transport.check_timeout(timeout_s)
        return exchange.obstacle(self._servers, timeout_s)

    def _readiness(self, timeout_s: float) -> exchange.ClientProgram[None]:
        transport.check_timeout(timeout_s)
        return exchange.readiness(self._servers, timeout_s)
