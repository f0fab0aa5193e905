"""Waits between tries, over the wire: every kind of call has them, and whoever ends a call that
waits need not wait too."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from fake_server import FakeTriton, inputs_of, serving
from test_client_calls import PICTURE, echo
from test_client_stream import event, tells

from segs_client import AsyncClient, Cancelled, Client, NotFound, Retries, errors, retries
from segs_client.contract import ErrorDetail

BOXES = [(4, 4, 20, 20)]
LONG_S = 100.0
PATIENCE_S = 30.0


class Full(FakeTriton):
    """Refuses so many calls, and answers those that come later."""

    def __init__(self, refusals: int, retry_after_s: float) -> None:
        super().__init__(self._answer, streamer=self._tell)
        self._left = refusals
        self._detail = ErrorDetail(
            code="UNAVAILABLE", message="overloaded", retry_after_s=retry_after_s
        )

    def _refuses(self) -> bool:
        self._left -= 1
        return self._left >= 0

    def _answer(self, request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        if self._refuses():
            context.abort(grpc.StatusCode.UNAVAILABLE, self._detail.to_status_message())
        return echo(request, context)

    def _tell(self, request: Any, context: grpc.ServicerContext) -> Iterator[dict[str, bytes]]:
        if "cancel" not in request.parameters and self._refuses():
            error = self._detail.model_dump(exclude_none=True)
            yield event({"event": "error", "error": error}, request.id, 0)
        else:
            yield from tells(request, context)


def detail(url: str, **settings: Any) -> int:
    with Client(url, pipeline="base", **settings) as client:
        return client.detail(PICTURE, BOXES, output={"image": "raw"}, request_id="r").tries


def stream(url: str, **settings: Any) -> int:
    with Client(url, pipeline="base", **settings) as client:
        *_, last = client.stream(PICTURE, BOXES, output={"image": "raw"}, request_id="r")
    assert last.result is not None
    return last.result.tries


def async_detail(url: str, **settings: Any) -> int:
    async def main() -> int:
        async with AsyncClient(url, pipeline="base", **settings) as client:
            result = await client.detail(PICTURE, BOXES, output={"image": "raw"}, request_id="r")
            return result.tries

    return asyncio.run(main())


def async_stream(url: str, **settings: Any) -> int:
    async def main() -> int:
        async with AsyncClient(url, pipeline="base", **settings) as client:
            updates = client.stream(PICTURE, BOXES, output={"image": "raw"}, request_id="r")
            results = [update.result async for update in updates]
        assert results[-1] is not None
        return results[-1].tries

    return asyncio.run(main())


@pytest.mark.parametrize("call", [detail, stream, async_detail, async_stream])
def test_an_overloaded_server_is_asked_more_often_than_there_are_rounds(
    call: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "LEAST_WAIT_S", 0.01)
    monkeypatch.setattr(retries, "LEAST_WAIT_S", 0.01)
    full = Full(refusals=4, retry_after_s=0.0)
    with serving(full) as url:
        assert call(url, retries=Retries(rounds=1)) == 5
    assert {request.id for request in full.requests} == {"r"}
    assert all(inputs_of(request)["request"] for request in full.requests)


@pytest.mark.parametrize("end", ["close", "cancel"])
@pytest.mark.parametrize("method", ["detail", "stream"])
def test_a_call_that_waits_ends_with_its_client_or_when_cancelled(method: str, end: str) -> None:
    waits = threading.Event()
    settings = {"retries": Retries(on_retry=lambda retry: waits.set())}
    with serving(Full(1, LONG_S)) as url, ThreadPoolExecutor(1) as pool:
        client = Client(url, pipeline="base", **settings)  # type: ignore[arg-type]
        ask = getattr(client, method)
        call = pool.submit(lambda: list(ask(PICTURE, BOXES, request_id="r") or ()))
        assert waits.wait(PATIENCE_S)
        if end == "cancel":
            while not call.done():  # it was about to wait, and may not yet
                with contextlib.suppress(NotFound):
                    client.cancel("r")
                    break
        else:
            client.close()
        with pytest.raises(Cancelled, match="before its next try") as caught:
            call.result(PATIENCE_S)
        assert caught.value.request_id == "r"
        client.close()


@pytest.mark.parametrize("end", ["close", "cancel", "task"])
def test_an_async_call_that_waits_ends_likewise(end: str) -> None:
    async def main(url: str) -> None:
        waits = asyncio.Event()
        client = AsyncClient(
            url, pipeline="base", retries=Retries(on_retry=lambda retry: waits.set())
        )
        call = asyncio.create_task(client.detail(PICTURE, BOXES, request_id="r"))
        await asyncio.wait_for(waits.wait(), PATIENCE_S)
        if end == "close":
            await client.close()
        elif end == "cancel":
            await client.cancel("r")
        else:
            call.cancel()
        kind = asyncio.CancelledError if end == "task" else Cancelled
        with pytest.raises(kind):
            await asyncio.wait_for(call, PATIENCE_S)
        assert not client._waits._ends
        await client.close()

    with serving(Full(1, LONG_S)) as url:
        asyncio.run(main(url))
