"""The async client's streams against a server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from fake_server import FakeTriton, serving
from test_client_async import stopping
from test_client_stream import BOXES, EVENTS, PICTURE, event, tells, unary

from segs_client import AsyncClient, DetailResult, NotFound, Retries, ServerUnavailable


def test_all_events_come_and_the_result_last() -> None:
    async def main(url: str) -> tuple[list[str], DetailResult | None]:
        async with AsyncClient(url, pipeline="base", api_key="secret") as client:
            updates = [each async for each in client.stream(PICTURE, BOXES, request_id="abc")]
        assert {update.event.request_id for update in updates} == {"abc"}
        return [update.event.event for update in updates], updates[-1].result

    seen: dict[str, Any] = {}

    def keyed(request: Any, context: grpc.ServicerContext) -> Iterator[dict[str, bytes]]:
        seen.update(dict(context.invocation_metadata()))
        return tells(request, context)

    with serving(FakeTriton(unary, streamer=keyed)) as url:
        events, result = asyncio.run(main(url))
    assert events == [*(each["event"] for each in EVENTS), "result"]
    assert result is not None
    np.testing.assert_array_equal(np.asarray(result.image), PICTURE)
    assert seen["x-api-key"] == "secret"


def test_streams_are_under_way_together() -> None:
    together = threading.Barrier(3)

    def meet(request: Any, context: grpc.ServicerContext) -> Iterator[dict[str, bytes]]:
        together.wait(10)
        return tells(request, context)

    async def one(client: AsyncClient) -> int:
        return len([update async for update in client.stream(PICTURE, BOXES)])

    async def main(url: str) -> list[int]:
        async with AsyncClient(url, pipeline="base") as client:
            return await asyncio.gather(*(one(client) for _ in range(3)))

    with serving(FakeTriton(unary, streamer=meet)) as url:
        assert asyncio.run(main(url)) == [len(EVENTS) + 1] * 3


@pytest.mark.parametrize("how", ["closed", "task cancelled"])
def test_leaving_a_stream_cancels_it_on_the_server(how: str) -> None:
    gone = threading.Event()

    def endless(request: Any, context: grpc.ServicerContext) -> Iterator[dict[str, bytes]]:
        context.add_callback(gone.set)
        yield event(EVENTS[0], request.id, 0)
        gone.wait(10)

    async def main(url: str) -> None:
        async with AsyncClient(url, pipeline="base") as client:
            begun = asyncio.Event()

            async def follow() -> None:
                async with contextlib.aclosing(client.stream(PICTURE, BOXES)) as updates:
                    async for _ in updates:
                        begun.set()
                        if how == "closed":
                            break

            task = asyncio.create_task(follow())
            await begun.wait()
            if how == "task cancelled":
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                await task
            assert await asyncio.to_thread(gone.wait, 5)
            assert client._servers._servers[0].under_way == 0.0

    with serving(FakeTriton(unary, streamer=endless)) as url:
        asyncio.run(main(url))


def test_a_stream_goes_elsewhere_until_something_was_told() -> None:
    def refuses(request: Any, context: grpc.ServicerContext) -> Iterator[dict[str, bytes]]:
        stopping(request, context)
        yield {}

    async def follow(client: AsyncClient) -> DetailResult | None:
        return [update async for update in client.stream(PICTURE, BOXES)][-1].result

    async def main(urls: list[str]) -> list[DetailResult | None]:
        async with AsyncClient(urls, pipeline="base") as client:
            return [await follow(client), await follow(client)]

    with (
        serving(FakeTriton(unary, streamer=refuses)) as one,
        serving(FakeTriton(unary, streamer=tells)) as other,
    ):
        results = asyncio.run(main([one, other]))
    assert [each and each.url for each in results] == [other, other]


def test_errors_and_cancelling_by_id() -> None:
    def refuses(request: Any, context: grpc.ServicerContext) -> Iterator[dict[str, bytes]]:
        stopping(request, context)
        yield {}

    async def main(url: str) -> None:
        async with AsyncClient(url, pipeline="base", retries=Retries(rounds=0)) as client:
            with pytest.raises(ServerUnavailable, match="stopping") as caught:
                async for _ in client.stream(PICTURE, BOXES, request_id="r5"):
                    pass
            assert caught.value.request_id == "r5"
            assert client._servers._servers[0].failures == 1

    async def cancel(url: str) -> None:
        async with AsyncClient(url) as client:
            await client.cancel("known")
            with pytest.raises(NotFound, match="no request 'other'"):
                await client.cancel("other")

    with serving(FakeTriton(unary, streamer=refuses)) as url:
        asyncio.run(main(url))
    with serving(FakeTriton(unary, streamer=tells)) as url:
        asyncio.run(cancel(url))
