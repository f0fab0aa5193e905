"""Log lines as JSON objects with the ids of their request."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any

FORMATS = ("text", "json")
TEXT_FORMAT = "%(levelname)s %(name)s %(message)s"
"""Format of the Python models' log lines, from which the supervisor reads the level."""
FIELDS = "fields"
"""Attribute of a log record with further members of its object."""

_ABOUT: ContextVar[Mapping[str, str] | None] = ContextVar("about", default=None)


@contextlib.contextmanager
def about(request_id: str, trace_id: str | None = None) -> Iterator[None]:
    """Adds the request's ids to all log lines of the block and of tasks started in it."""
    named = {"request_id": request_id}
    if trace_id is not None:
        named["trace_id"] = trace_id
    token = _ABOUT.set(named)
    try:
        yield
    finally:
        _ABOUT.reset(token)


class JsonFormatter(logging.Formatter):
    """Formats ``time`` (UTC), ``level``, ``logger``, ``message``, the record's ``fields``, and if
    present ``request_id``, ``trace_id`` and ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        created = datetime.fromtimestamp(record.created, timezone.utc)
        named: dict[str, Any] = {
            "time": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **(_ABOUT.get() or {}),
        }
        if record.exc_info:
            named["exception"] = self.formatException(record.exc_info)
        named.update(getattr(record, FIELDS, {}))
        return json.dumps(named, ensure_ascii=False, default=str)


def parse_json_line(line: str) -> dict[str, Any] | None:
    """The object of a line of :class:`JsonFormatter`; None for another line."""
    if not line.startswith('{"time":'):
        return None
    try:
        named = json.loads(line)
    except ValueError:
        return None
    members = ("time", "level", "logger", "message")
    if isinstance(named, dict) and all(isinstance(named.get(each), str) for each in members):
        return named
    return None
