"""What the synchronous and the async client share: all but the waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from segs_client import access, exchange, streaming, transport
from segs_client.access import Tls
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
    """Settings of a client, and what is done before and after a request is on its way.

    Args:
        url: host and port of Triton's gRPC. Of several, each request goes to the one with the
            least work of this client, and to another where it is UNAVAILABLE, see
            :mod:`segs_client.servers`.
        pipeline: the compiled checkpoint used where a call names none.
        timeout_s: seconds after which a call is given up, where it names no other; so long it is
            tried again where all servers are overloaded.
        api_key: sent with every call, for a server that requires one.
        tls: whether, or with which files, the connection is encrypted. Key and TLS that are not
            given are looked for in the environment, see :mod:`segs_client.access`.
        retries: what is done where no server is available.
        shared_memory: pictures of ``detail`` go through shared memory, to servers on this host that
            are open to that, see :mod:`segs_client.shared_memory`.

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
        """Makes the channels, where that is not left for the first call."""

    @property
    def urls(self) -> tuple[str, ...]:
        """Host and port of every server."""
        return self._servers.urls

    def _build(
        self,
        image: Picture,
        segs: Segs | Sequence[Sequence[int]],
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

    def _ask(
        self, built: BuiltRequest, request_id: str | None, timeout_s: float | None
    ) -> exchange.ClientProgram[exchange.Answered]:
        """The program of a request."""
        request_id = request_id or transport.new_request_id()
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        arguments = transport.infer_arguments(built, request_id, timeout_s)
        asked = exchange.Asked(
            {**arguments, "headers": self._headers},
            request_id,
            estimated_work(built.request),
            timeout_s,
            RegionSpec.of(built) if self.shared_memory else None,
        )
        return exchange.traced_inference(asked, self._servers, self.retries)

    def _ask_updates(
        self, built: BuiltRequest, request_id: str | None, timeout_s: float | None
    ) -> exchange.Asked:
        """A stream that is to be opened."""
        request_id = request_id or transport.new_request_id()
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        arguments = {
            "message": streaming.stream_message(built, request_id, timeout_s),
            "built": built,
            "headers": self._headers,
        }
        work = estimated_work(built.request)
        return exchange.Asked(arguments, request_id, work, timeout_s, method=exchange.FOLLOW)

    @staticmethod
    def _signed(update: StreamUpdate, answered: exchange.Answered) -> StreamUpdate:
        """With its result, if there is one, telling whose it is."""
        if update.result is None:
            return update
        result = replace(update.result, url=answered.url, tries=answered.tries)
        return replace(update, result=result)

    @staticmethod
    def _read(built: BuiltRequest, answered: exchange.Answered) -> DetailResult:
        result = transport.read_answer(built, answered.answer, answered.elsewhere)
        return replace(result, url=answered.url, tries=answered.tries)

    def _obstacle(self, timeout_s: float) -> exchange.ClientProgram[str | None]:
        transport.check_timeout(timeout_s)
        return exchange.obstacle(self._servers, timeout_s)

    def _readiness(self, timeout_s: float) -> exchange.ClientProgram[None]:
        transport.check_timeout(timeout_s)
        return exchange.readiness(self._servers, timeout_s)
