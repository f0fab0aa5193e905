"""The synchronous client."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Mapping
from types import TracebackType
from typing import Any, TypeVar

import grpc
from tritonclient.grpc import InferenceServerClient

from segs_client import access, streaming
from segs_client.base_client import BaseClient
from segs_client.boxes import Boxes
from segs_client.errors import NotFound, SegsError, ServerError, ServerUnavailable, from_transport
from segs_client.exchange import (
    FOLLOW,
    LONGEST_PROBE_S,
    ClientProgram,
    ClientStep,
    OutgoingRequest,
    Pause,
    inference,
    traced,
)
from segs_client.messages import BuiltRequest, DetailResult
from segs_client.pictures import Picture
from segs_client.segs import Segs
from segs_client.streaming import StreamUpdate

T = TypeVar("T")


class Client(BaseClient):
    """A connection to one server, or to several equal ones; thread-safe. Close it or use ``with``.
    Its arguments are those of :class:`~segs_client.base_client.BaseClient`.

    Example:
        >>> with Client("127.0.0.1:8001", pipeline="base") as client:  # doctest: +SKIP
        ...     result = client.detail("photo.png", [(40, 50, 80, 100)], prompt="a smiling face")
        ...     result.image.save("detailed.png")
    """

    def _connect(self) -> None:
        self._tritons = [InferenceServerClient(each, **self._connection) for each in self.urls]
        self._channels: dict[int, Any] = {}
        """Channels for streams, by server: tritonclient's connection allows one stream."""
        self._lock = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; ends open streams and cancels calls that wait for their next
        try."""
        self._waits.close()
        for triton in self._tritons:
            triton.close()
        for channel in self._channels.values():
            channel.close()

    def detail(
        self,
        image: Picture,
        segs: Segs | Boxes,
        *,
        pipeline: str | None = None,
        prompt: str = "",
        negative: str = "",
        request_id: str | None = None,
        timeout_s: float | None = None,
        **options: Any,
    ) -> DetailResult:
        """Redraws the segments of a picture and waits for the result.

        Args:
            image: PIL image, array [H, W, 3] (uint8, or float in 0..1), file bytes, or path;
                see :func:`segs_client.pictures.encode_picture`.
            segs: SEGS, or boxes x1, y1, x2, y2 in half-open pixels.
            pipeline: the compiled checkpoint; required unless the client has a default.
            prompt: of all SEGs.
            negative: the negative prompt of all SEGs.
            request_id: used in errors, the report and the server's log; None: a new one.
            timeout_s: time-out of the call in seconds on both sides, retries included.
            options: other fields of :class:`~segs_client.contract.DetailRequest`, such as
                ``steps=30`` or ``output={"seg_images": "png"}``.

        Raises:
            InvalidRequest: the request breaks the contract.
            Unauthenticated: the server requires a valid API key.
            ServerUnavailable: not reachable, not ready or overloaded, after all retries.
            DeadlineExceeded: the time-out passed.
            Cancelled: the call was cancelled.
            ServerError: the server failed.
            OSError: the image's path cannot be read.
        """
        options = {"prompt": prompt, "negative": negative, **options}
        built = self._build(image, segs, pipeline, options)
        response = self._run(self._request(built, request_id, timeout_s))
        return self._read(built, response)

    def stream(
        self,
        image: Picture,
        segs: Segs | Boxes,
        *,
        pipeline: str | None = None,
        prompt: str = "",
        negative: str = "",
        request_id: str | None = None,
        timeout_s: float | None = None,
        **options: Any,
    ) -> Generator[StreamUpdate, None, None]:
        """Redraws the segments of a picture and yields its events, until the result.

        The arguments are those of :meth:`detail`; the option ``stream``, such as
        ``stream={"preview_every": 5}``, chooses the events
        (:class:`~segs_client.contract.StreamOptions`). The first ``next`` starts the call. Until
        the first event it is retried like :meth:`detail`. Closing or dropping the generator cancels
        the request. A slow reader gets fewer steps.

        Yields:
            Updates; the last one's ``result`` is that of :meth:`detail`.

        Raises:
            SegsError: as :meth:`detail`, during the iteration; InvalidRequest before it.

        Example:
            >>> for update in client.stream("photo.png", boxes):  # doctest: +SKIP
            ...     if update.event.event == "step":
            ...         print(update.event.seg, update.event.step, "of", update.event.steps)
            >>> update.result.image.save("detailed.png")  # doctest: +SKIP
        """
        options = {"prompt": prompt, "negative": negative, **options}
        built = self._build(image, segs, pipeline, options)
        return self._streamed(self._stream_request(built, request_id, timeout_s))

    def cancel(self, request_id: str, timeout_s: float = LONGEST_PROBE_S) -> None:
        """Ends a request of :meth:`stream` of any client with the same API key, or a request of
        this client that waits for its next try.

        Raises:
            NotFound: no server has such a request.
            ServerUnavailable: no reachable server has it, and a server is not reachable.
            SegsError: as :meth:`detail`.
        """
        message = streaming.cancel_message(request_id, timeout_s)
        if self._waits.end(request_id):
            return
        error: SegsError = ServerError("there is no server")
        for index in range(len(self.urls)):
            try:
                for _ in self._updates(index, message, None, self._headers):
                    pass
                return
            except (NotFound, ServerUnavailable) as found:
                if not isinstance(error, ServerUnavailable):
                    error = found
        raise error

    def _streamed(self, request: OutgoingRequest) -> Generator[StreamUpdate, None, None]:
        with traced(request) as inside:
            response = self._run(inference(inside, self._servers, self.retries))
            updates, first = response.answer
            with self._servers.streaming(response.url, request.work), contextlib.closing(updates):
                yield self._with_server(first, response)
                for update in updates:
                    yield self._with_server(update, response)

    def _follow(
        self, server: int, given: Mapping[str, Any]
    ) -> tuple[Generator[StreamUpdate, None, None], StreamUpdate]:
        """Opens a stream and waits for its first update."""
        message = streaming.in_time(given["message"], given["timeout"])
        updates = self._updates(server, message, given["built"], given["headers"])
        return updates, next(updates)

    def _updates(
        self, server: int, message: Any, built: BuiltRequest | None, headers: Mapping[str, str]
    ) -> Generator[StreamUpdate, None, None]:
        call = streaming.open_stream(self._channel(server), [message], headers)
        try:
            for response in call:
                update = streaming.read_update(built, response, message.id)
                yield update
                if update.is_last:
                    return
        except grpc.RpcError as error:
            raise from_transport(error, request_id=message.id) from error
        finally:
            call.cancel()
        raise ServerError("the stream ended without a result", request_id=message.id)

    def _channel(self, server: int) -> Any:
        with self._lock:
            if server not in self._channels:
                channel = access.open_channel(self.urls[server], self._connection, grpc)
                self._channels[server] = channel
            return self._channels[server]

    def is_ready(self, timeout_s: float = LONGEST_PROBE_S) -> bool:
        """Whether a server and its detailer's model accept requests now."""
        return self._run(self._obstacle(timeout_s)) is None

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Waits until a server and its detailer's model accept requests.

        Raises:
            ServerUnavailable: not within ``timeout_s``; the message has the last state.
        """
        self._run(self._readiness(timeout_s))

    def _run(self, program: ClientProgram[T]) -> T:
        try:
            step = next(program)
            while True:
                try:
                    outcome = self._perform(step)
                except BaseException as error:
                    step = program.throw(error)
                else:
                    step = program.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    def _perform(self, step: ClientStep) -> Any:
        if isinstance(step, Pause):
            with self._waits.begun(threading.Event(), step.request_id) as end:
                end.wait(step.seconds)
            return None
        if step.method == FOLLOW:
            return self._follow(step.server, step.arguments)
        return getattr(self._tritons[step.server], step.method)(**step.arguments)
