"""What ends a request before its answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from request_plan.refusals import CancelledByClientError, StoppingError
from tests.triton_models.pb_utils import Request
from tests.virtual_time import run
from triton_models.front_end import ClientRequest


def test_the_works_result_and_errors_pass() -> None:
    async def fail() -> None:
        await asyncio.sleep(1)
        raise KeyError("x")

    async def test() -> None:
        asked = ClientRequest(Request(), "r")
        assert await asked.until(asyncio.sleep(1, "done")) == "done"
        with pytest.raises(KeyError):
            await asked.until(fail())
        asked.interrupt(StoppingError())  # too late for those

    run(test)


def test_an_interruption_cancels_the_work() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(1)  # its end is waited for
            ended.append("work")
            raise

    async def test() -> None:
        asked = ClientRequest(Request(), "r")
        asyncio.get_running_loop().call_later(5, asked.interrupt, CancelledByClientError())
        with pytest.raises(CancelledByClientError):
            await asked.until(work())
        assert ended == ["work"]
        asked.interrupt(StoppingError())  # the first one stays
        with pytest.raises(CancelledByClientError):
            await asked.until(work())

    run(test)


def test_an_interruption_that_comes_first_ends_what_is_begun_later() -> None:
    async def test() -> None:
        asked = ClientRequest(Request(), "r")
        asked.interrupt(StoppingError())
        with pytest.raises(StoppingError):
            await asked.until(asyncio.sleep(1000))

    run(test)


def test_work_that_is_done_counts_more_than_an_interruption() -> None:
    async def test() -> None:
        asked = ClientRequest(Request(), "r")
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waits = asyncio.ensure_future(asked.until(done))
        await asyncio.sleep(0)
        done.set_result("place")  # has to be released by the caller
        asked.interrupt(StoppingError())
        assert await waits == "place"

    run(test)


def test_a_caller_that_is_cancelled_cancels_the_work() -> None:
    async def test() -> None:
        asked = ClientRequest(Request(), "r")
        work = asyncio.ensure_future(asyncio.sleep(1000))
        waits = asyncio.ensure_future(asked.until(work))
        await asyncio.sleep(1)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        await asyncio.sleep(0)
        assert work.cancelled()

    run(test)
