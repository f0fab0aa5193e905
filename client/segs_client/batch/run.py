"""Runs a batch: several pictures at once, each saved as soon as it is received."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from segs_client.async_client import AsyncClient
from segs_client.batch.items import Item
from segs_client.batch.journal import Entry, Journal, Status
from segs_client.errors import SegsError, ServerUnavailable, Unauthenticated
from segs_client.local_files import save
from segs_client.messages import DetailResult

ItemOutcome = Literal["done", "partly", "failed", "as before"]


@dataclass
class Tally:
    """The results of a run.

    Attributes:
        counts: pictures by outcome; ``as before``: the result existed.
        changed: pictures made again because their options, segments or pictures have changed.
        empty: unchanged pictures, without segments.
        wrong: entries of failed and partly failed pictures.
    """

    counts: Counter[ItemOutcome] = field(default_factory=Counter)
    changed: int = 0
    empty: int = 0
    wrong: list[Entry] = field(default_factory=list)


class Batch:
    """The pictures of one run.

    Args:
        client: open.
        journal: open.
        tally: updated.
        on_progress: called after each update of the tally.
    """

    def __init__(
        self,
        client: AsyncClient,
        journal: Journal,
        tally: Tally,
        on_progress: Callable[[], None],
    ) -> None:
        self._client = client
        self._journal = journal
        self._tally = tally
        self._on_progress = on_progress
        self._kept: set[asyncio.Task[None]] = set()
        """Tasks that save received results."""

    async def run(self, items: Sequence[Item], jobs: int) -> None:
        """Makes missing results, ``jobs`` pictures at once. If it is cancelled, received pictures
        are still saved.

        Raises:
            ServerUnavailable: after all retries; the other pictures are left for the next run. (If
                the server was lost during the request, only this picture fails.)
            Unauthenticated: all pictures would be refused.
        """
        left = iter(items)
        workers = [asyncio.create_task(self._work(left)) for _ in range(min(jobs, len(items)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, *self._kept, return_exceptions=True)

    async def _work(self, left: Iterator[Item]) -> None:
        for item in left:
            await self._one(item)

    async def _one(self, item: Item) -> None:
        begun_s = time.monotonic()
        key = ""
        try:
            key = await asyncio.to_thread(item.key)
            if self._journal.is_done(item, key):
                return self._count("as before")
            self._note_change(item, key)
            segs = await asyncio.to_thread(item.segments)
            result = await self._client.detail(item.image, segs, **item.options)
        except Unauthenticated:
            raise
        except (SegsError, OSError, ValueError) as error:
            message = str(error)
            if isinstance(error, ServerUnavailable):
                if not error.is_loss:
                    raise
                message = f"may have brought the server down each time it had it: {message}"
            request_id = error.request_id if isinstance(error, SegsError) else ""
            entry = Entry(
                name=item.name, key=key, status="failed", message=message, request_id=request_id
            )
            return self._write(entry, begun_s)
        # A received result is saved even if this task is cancelled.
        keeping = asyncio.create_task(self._keep(item, key, result, begun_s))
        self._kept.add(keeping)
        keeping.add_done_callback(self._kept.discard)
        return await asyncio.shield(keeping)

    async def _keep(self, item: Item, key: str, result: DetailResult, begun_s: float) -> None:
        status: Status = "partly" if result.failed else "done"
        message = f"{len(result.failed)} of {len(result.report.segs)} SEGs failed"
        try:
            await asyncio.to_thread(_save, item, result)
        except (OSError, ValueError) as error:
            status, message = "failed", str(error)
        self._tally.empty += not result.report.segs
        entry = Entry(
            name=item.name,
            key=key,
            status=status,
            message="" if status == "done" else message,
            request_id=result.report.request_id,
            url=result.url,
        )
        self._write(entry, begun_s)

    def _write(self, entry: Entry, begun_s: float) -> None:
        entry = entry.model_copy(update={"seconds": round(time.monotonic() - begun_s, 3)})
        self._journal.add(entry)
        if entry.status != "done":
            self._tally.wrong.append(entry)
        self._count(entry.status)

    def _count(self, outcome: ItemOutcome) -> None:
        self._tally.counts[outcome] += 1
        self._on_progress()

    def _note_change(self, item: Item, key: str) -> None:
        last = self._journal.last(item)
        self._tally.changed += last is not None and last.status == "done" and last.key != key


def _save(item: Item, result: DetailResult) -> None:
    assert result.image is not None  # no item asks for none
    item.output.parent.mkdir(parents=True, exist_ok=True)
    save(result.image, item.output)
