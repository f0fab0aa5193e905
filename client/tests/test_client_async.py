"""The async client, and both clients against several servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from fake_server import FakeTriton, inputs_of, serving, silent
from test_client_calls import PICTURE, SEGS, closed_port, echo

import segs_client
from segs_client import AsyncClient, Client, DetailResult, Retries, ServerUnavailable
from segs_client.contract import API_KEY_HEADER, ErrorDetail, parse_request
from segs_client.work import estimated_work

RAW = {"image": "raw"}


def stopping(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
    detail = ErrorDetail(
        code="UNAVAILABLE",
        message="the server is stopping: try again in 5.0 s",
        retry_after_s=5.0,
        request_id=request.id,
    )
    context.abort(grpc.StatusCode.UNAVAILABLE, detail.to_status_message())
    raise AssertionError


@contextlib.contextmanager
def two(first: FakeTriton, second: FakeTriton) -> Iterator[list[str]]:
    with serving(first) as one, serving(second) as other:
        yield [one, other]


def test_round_trip_with_key_and_id() -> None:
    seen: dict[str, Any] = {}

    def keyed(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        seen.update(dict(context.invocation_metadata()), **inputs_of(request))
        return echo(request, context)

    async def main(url: str) -> DetailResult:
        async with AsyncClient(url, pipeline="base", api_key="secret") as client:
            await client.wait_ready(10)
            assert await client.is_ready()
            return await client.detail(
                PICTURE, SEGS, prompt="a face", request_id="abc", output=RAW, timeout_s=20
            )

    with serving(FakeTriton(keyed)) as url:
        result = asyncio.run(main(url))
    assert result.image is not None
    np.testing.assert_array_equal(np.asarray(result.image), PICTURE)
    assert (result.report.request_id, result.url, result.tries) == ("abc", url, 1)
    assert result.segs[0].label == "face"
    assert seen[API_KEY_HEADER] == "secret"
    assert b'"prompt":"a face"' in seen["request"]


def test_calls_are_under_way_together() -> None:
    together = threading.Barrier(4)

    def meet(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        together.wait(10)
        return echo(request, context)

    async def main(url: str) -> list[DetailResult]:
        async with AsyncClient(url, pipeline="base") as client:
            calls = [client.detail(PICTURE, SEGS, output=RAW) for _ in range(4)]
            return await asyncio.gather(*calls)

    with serving(FakeTriton(meet)) as url:
        assert len(asyncio.run(main(url))) == 4


def test_a_cancelled_call_is_cancelled_on_the_server() -> None:
    begun, gone = threading.Event(), threading.Event()

    def wait(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        context.add_callback(gone.set)
        begun.set()
        gone.wait(10)
        return {}

    async def main(url: str) -> float:
        async with AsyncClient(url, pipeline="base") as client:
            call = asyncio.create_task(client.detail(PICTURE, SEGS))
            await asyncio.to_thread(begun.wait, 10)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            return client._servers._servers[0].under_way

    with serving(FakeTriton(wait)) as url:
        assert asyncio.run(main(url)) == 0.0
        assert gone.wait(5)


def test_errors_are_those_of_the_sync_client() -> None:
    async def main(url: str, **options: Any) -> None:
        async with AsyncClient(url, retries=Retries(rounds=0)) as client:
            await client.detail(PICTURE, SEGS, **options)

    with serving(FakeTriton(stopping)) as url:
        with pytest.raises(ServerUnavailable) as caught:
            asyncio.run(main(url, pipeline="base", request_id="r7"))
        with pytest.raises(segs_client.InvalidRequest, match="pipeline: required"):
            asyncio.run(main(url))
    assert (caught.value.request_id, caught.value.retry_after_s) == ("r7", 5.0)
    assert caught.value.__cause__ is not None
    with pytest.raises(segs_client.ServerUnavailable, match="not ready after"):
        asyncio.run(AsyncClient(f"127.0.0.1:{closed_port()}").wait_ready(0.3))


def test_deadline() -> None:
    async def main(url: str) -> None:
        async with AsyncClient(url, pipeline="base") as client:
            await client.detail(PICTURE, SEGS, timeout_s=0.2, request_id="late")

    with (
        serving(FakeTriton(silent)) as url,
        pytest.raises(segs_client.DeadlineExceeded) as caught,
    ):
        asyncio.run(main(url))
    assert caught.value.request_id == "late"


def test_the_async_client_goes_elsewhere() -> None:
    told: list[segs_client.Retry] = []

    async def main(urls: list[str]) -> list[DetailResult]:
        retries = Retries(on_retry=told.append)
        async with AsyncClient(urls, pipeline="base", retries=retries) as client:
            return [await client.detail(PICTURE, SEGS, output=RAW) for _ in range(4)]

    with two(FakeTriton(stopping), FakeTriton(echo)) as urls:
        results = asyncio.run(main(urls))
    assert {each.url for each in results} == {urls[1]}
    assert sorted(each.tries for each in results)[:3] == [1, 1, 1]
    assert {each.pause_s for each in told} == {0.0}  # though the other one asked for 5 s


def test_a_dead_server_is_no_obstacle_and_comes_back() -> None:
    told: list[segs_client.Retry] = []
    fake = FakeTriton(echo)
    with serving(fake) as alive:
        with serving(FakeTriton(echo)) as dead:
            port = int(dead.rpartition(":")[2])
        retries = Retries(on_retry=told.append)
        with Client([dead, alive], pipeline="base", retries=retries) as client:
            results = [client.detail(PICTURE, SEGS, output=RAW) for _ in range(3)]
            assert {each.url for each in results} == {alive}
            assert [each.url for each in told] == [dead]
            assert client.is_ready()
            with serving(FakeTriton(echo), port) as back:
                assert back == dead
                end = time.monotonic() + 60
                while client.detail(PICTURE, SEGS, output=RAW).url != back:
                    assert time.monotonic() < end
                    time.sleep(0.05)


def test_work_is_shared_out_evenly() -> None:
    first, second = FakeTriton(echo), FakeTriton(echo)
    with two(first, second) as urls, Client(urls, pipeline="base") as client:
        for steps in (10, 1, 3, 7, 2, 9, 4, 4, 8, 5) * 3:
            client.detail(PICTURE, [(0, 0, 8, 8)], output=RAW, steps=steps)
    work = [sum(_work(request) for request in fake.requests) for fake in (first, second)]
    assert max(work) < 1.15 * min(work)


def _work(request: Any) -> float:
    return estimated_work(parse_request(inputs_of(request)["request"]))


def test_lost_connections_are_repeated_a_few_times_only() -> None:
    def drop(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        raise AssertionError

    fake = FakeTriton(drop)
    retries = Retries(first_pause_s=0.01, losses=3)
    with (
        serving(fake) as url,
        Client(url, pipeline="base", retries=retries) as client,
        pytest.raises(ServerUnavailable, match="Socket closed") as caught,
    ):
        client.detail(PICTURE, SEGS)
    assert caught.value.is_loss
    assert len(fake.requests) == 3
    assert len({request.id for request in fake.requests}) == 1  # one request, however often sent


def test_the_log_tells_of_retries(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level("INFO", "segs_client"),
        two(FakeTriton(stopping), FakeTriton(echo)) as urls,
        Client(urls, pipeline="base") as client,
    ):
        for _ in range(2):
            client.detail(PICTURE, SEGS, output=RAW, request_id="r3")
    (record,) = caplog.records
    assert record.getMessage().startswith(f"request r3: {urls[0]} was UNAVAILABLE (the server is")
