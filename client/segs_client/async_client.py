"""The client for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from functools import cached_property
from types import TracebackType
from typing import Any, TypeVar

import grpc
from tritonclient.grpc.aio import InferenceServerClient

from segs_client import access, streaming
from segs_client.base_client import BaseClient
from segs_client.boxes import Boxes
from segs_client.errors import NotFound, SegsError, ServerError, ServerUnavailable, from_transport
from segs_client.exchange import (
    FOLLOW,
    LONGEST_PROBE_S,
    ClientProgram,
    ClientStep,
    Pause,
    inference,
    traced,
)
from segs_client.messages import BuiltRequest, DetailResult
from segs_client.pictures import Picture
from segs_client.segs import Segs
from segs_client.streaming import StreamUpdate

T = TypeVar("T")


class AsyncClient(BaseClient):
    """:class:`~segs_client.Client` for asyncio, with its arguments and errors; for one event loop.

    Any number of calls may run at once. Cancelling a call also cancels it on the server. Pictures
    are encoded and decoded in threads, so that the loop is not blocked.

    Example:
        >>> async def main() -> None:  # doctest: +SKIP
        ...     async with AsyncClient("127.0.0.1:8001", pipeline="base") as client:
        ...         calls = [client.detail(path, [(40, 50, 80, 100)]) for path in paths]
        ...         for result in await asyncio.gather(*calls):
        ...             result.image.save(f"{result.report.request_id}.png")
    """

    def _connect(self) -> None:
        self._channels: dict[int, Any] = {}
        """Channels for streams, by server: tritonclient's connection allows one stream."""

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections and cancels running calls."""
        self._waits.close()
        for triton in self._tritons:
            await triton.close()
        for channel in self._channels.values():
            await channel.close()

    async def detail(
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
        """Redraws the segments of a picture; arguments, result and errors are those of
        :meth:`Client.detail`."""
        options = {"prompt": prompt, "negative": negative, **options}
        built = await asyncio.to_thread(self._build, image, segs, pipeline, options)
        response = await self._run(self._request(built, request_id, timeout_s))
        return await asyncio.to_thread(self._read, built, response)

    async def stream(
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
    ) -> AsyncGenerator[StreamUpdate, None]:
        """Redraws the segments of a picture and yields its events, until the result; arguments,
        updates and errors are those of :meth:`Client.stream`.

        Example:
            >>> updates = client.stream("photo.png", boxes)  # doctest: +SKIP
            >>> async with contextlib.aclosing(updates):  # doctest: +SKIP
            ...     async for update in updates:  # leaving it cancels the request
            ...         print(update.event)
        """
        options = {"prompt": prompt, "negative": negative, **options}
        built = await asyncio.to_thread(self._build, image, segs, pipeline, options)
        request = self._stream_request(built, request_id, timeout_s)
        with traced(request) as inside:
            response = await self._run(inference(inside, self._servers, self.retries))
            updates, first = response.answer
            with self._servers.streaming(response.url, request.work):
                async with contextlib.aclosing(updates):
                    yield self._with_server(first, response)
                    async for update in updates:
                        yield self._with_server(update, response)

    async def cancel(self, request_id: str, timeout_s: float = LONGEST_PROBE_S) -> None:
        """Ends a request of :meth:`stream`; errors are those of :meth:`Client.cancel`."""
        message = streaming.cancel_message(request_id, timeout_s)
        if self._waits.end(request_id):
            return
        error: SegsError = ServerError("there is no server")
        for index in range(len(self.urls)):
            try:
                async for _ in self._updates(index, message, None, self._headers):
                    pass
                return
            except (NotFound, ServerUnavailable) as found:
                if not isinstance(error, ServerUnavailable):
                    error = found
        raise error

    async def _follow(
        self, server: int, given: Mapping[str, Any]
    ) -> tuple[AsyncGenerator[StreamUpdate, None], StreamUpdate]:
        """Opens a stream and waits for its first update."""
        message = streaming.in_time(given["message"], given["timeout"])
        updates = self._updates(server, message, given["built"], given["headers"])
        return updates, await anext(updates)

    async def _updates(
        self, server: int, message: Any, built: BuiltRequest | None, headers: Mapping[str, str]
    ) -> AsyncGenerator[StreamUpdate, None]:
        call = streaming.open_stream(self._channel(server), [message], headers)
        try:
            async for response in call:
                update = await asyncio.to_thread(streaming.read_update, built, response, message.id)
                yield update
                if update.is_last:
                    return
        except grpc.RpcError as error:
            raise from_transport(error, request_id=message.id) from error
        finally:
            call.cancel()
        raise ServerError("the stream ended without a result", request_id=message.id)

    def _channel(self, server: int) -> Any:
        if server not in self._channels:
            url = self.urls[server]
            self._channels[server] = access.open_channel(url, self._connection, grpc.aio)
        return self._channels[server]

    async def is_ready(self, timeout_s: float = LONGEST_PROBE_S) -> bool:
        """Whether a server and its detailer's model accept requests now."""
        return await self._run(self._obstacle(timeout_s)) is None

    async def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Waits until a server and its detailer's model accept requests.

        Raises:
            ServerUnavailable: not within ``timeout_s``; the message has the last state.
        """
        await self._run(self._readiness(timeout_s))

    @cached_property
    def _tritons(self) -> list[InferenceServerClient]:
        # A channel belongs to the event loop in which it is created: that of the first call.
        return [InferenceServerClient(url, **self._connection) for url in self.urls]

    async def _run(self, program: ClientProgram[T]) -> T:
        try:
            step = next(program)
            while True:
                try:
                    outcome = await self._perform(step)
                except BaseException as error:
                    step = program.throw(error)
                else:
                    step = program.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _perform(self, step: ClientStep) -> Any:
        if isinstance(step, Pause):
            wait = self._waits.begun(asyncio.Event(), step.request_id)
            with wait as end, contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(end.wait(), step.seconds)
            return None
        if step.method == FOLLOW:
            return await self._follow(step.server, step.arguments)
        return await getattr(self._tritons[step.server], step.method)(**step.arguments)
