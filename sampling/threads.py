"""Threads for work on arrays and prompts, so that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class WorkThreads:
    """The few threads of one engine: the networks keep their cores."""

    def __init__(self) -> None:
        cores = len(os.sched_getaffinity(0))
        self._arrays = ThreadPoolExecutor(max(1, min(4, cores // 2)), "arrays")
        self._checks = ThreadPoolExecutor(1, "checks")

    async def arrays(self, work: Callable[[], T]) -> T:
        """Runs array work of more than a few milliseconds."""
        return await asyncio.get_running_loop().run_in_executor(self._arrays, work)

    async def checks(self, work: Callable[[], T]) -> T:
        """Runs what decides whether a request is begun; it waits for no array work."""
        return await asyncio.get_running_loop().run_in_executor(self._checks, work)
