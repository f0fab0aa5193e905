"""Threads for work on arrays and prompts, so that it does not block the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class WorkThreads:
    """The threads of one engine; few, to leave the cores to the networks."""

    def __init__(self) -> None:
        cores = len(os.sched_getaffinity(0))
        self._arrays = ThreadPoolExecutor(max(1, min(4, cores // 2)), "arrays")
        self._checks = ThreadPoolExecutor(1, "checks")

    async def arrays(self, work: Callable[[], T]) -> T:
        """Runs array work of more than a few milliseconds."""
        return await asyncio.get_running_loop().run_in_executor(self._arrays, work)

    async def checks(self, work: Callable[[], T]) -> T:
        """Runs checks of a request before its start; does not wait for array work."""
        return await asyncio.get_running_loop().run_in_executor(self._checks, work)
