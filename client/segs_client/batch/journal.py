"""The results of a batch, one line of JSON per picture, so that the next run can continue."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from segs_client.batch.items import Item
from segs_client.contract import Model

FILE_NAME = "segs-journal.jsonl"
Status = Literal["done", "partly", "failed"]


class Entry(Model):
    """The result of one picture."""

    name: Annotated[str, Field(description="of the item")]
    key: Annotated[str, Field(description="of all that decides the result")]
    status: Annotated[Status, Field(description="partly: it is there, but SEGs of it failed")]
    message: Annotated[str, Field(description="what went wrong")] = ""
    request_id: str = ""
    url: Annotated[str, Field(description="the server that made it")] = ""
    seconds: float = 0.0
    ended_at: Annotated[str, Field(description="UTC, ISO 8601")] = ""


class Journal:
    """The journal of an output folder; a context manager, for one run at a time.

    Args:
        folder: created if missing.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE_NAME
        self._entries = {entry.name: entry for entry in _read(self.path)}
        self._file = self.path.open("ab")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def last(self, item: Item) -> Entry | None:
        """The last entry of an item."""
        return self._entries.get(item.name)

    def is_done(self, item: Item, key: str) -> bool:
        """Whether the item's complete result exists and was made with the same key."""
        last = self.last(item)
        is_same = last is not None and last.status == "done" and last.key == key
        return is_same and item.output.is_file()

    def add(self, entry: Entry) -> None:
        """Appends an entry and flushes it to the disk."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        entry = entry.model_copy(update={"ended_at": now})
        # A line that was cut by a crash is ended first; it is not read.
        self._file.write(b"" if _ends_well(self.path) else b"\n")
        self._file.write(entry.model_dump_json().encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._entries[entry.name] = entry


def _read(path: Path) -> list[Entry]:
    if not path.exists():
        return []
    entries = []
    for line in path.read_bytes().splitlines():
        try:
            entries.append(Entry.model_validate_json(line))
        except ValidationError:
            continue
    return entries


def _ends_well(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
