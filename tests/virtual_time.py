"""An event loop whose time passes at once, so that tests of time-outs take none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Goes on to the next timer when nothing else is to be done. While threads of an executor work,
    it waits for them, and its time stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_000_000.0
        self._working = 0
        selector = vars(self)["_selector"]
        select = selector.select

        def wait(timeout: float | None = None) -> Any:
            if self._working and (timeout is None or timeout > 0):
                return select(None)
            if timeout is None:
                raise RuntimeError("the event loop waits for what never comes")
            self.now_s += max(timeout, 0.0)
            return select(0)

        selector.select = wait

    def time(self) -> float:
        return self.now_s

    def run_in_executor(  # type: ignore[override]  # of any function
        self, executor: Any, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        self._working += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._worked)
        return future

    def _worked(self, _: object) -> None:
        self._working -= 1

    async def shutdown_default_executor(self, *arguments: Any) -> None:
        self._working += 1
        await super().shutdown_default_executor(*arguments)


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of the work in an event loop with virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work())
    finally:
        loop.run_until_complete(_end(asyncio.all_tasks(loop)))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def now_s() -> float:
    """The running loop's time; outside of one, 0."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:  # a thread beside the loop
        return 0.0


def use_virtual_time(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """These modules read the running loop's time, whichever of their clocks they ask."""
    clocks = SimpleNamespace(
        monotonic=now_s, perf_counter=now_s, time=now_s, time_ns=lambda: round(now_s() * 1e9)
    )
    for module in modules:
        monkeypatch.setattr(f"{module}.time", clocks)
