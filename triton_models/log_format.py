"""Log lines as JSON, one object each, with the request that they are about."""

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
"""Of the Python models' log lines, so that the supervisor reads their level."""
FIELDS = "fields"
"""Attribute of a log record: further members of its object."""

_ABOUT: ContextVar[Mapping[str, str] | None] = ContextVar("about", default=None)


@contextlib.contextmanager
def about(request_id: str, trace_id: str | None = None) -> Iterator[None]:
    """Whatever is logged in the block, and in tasks begun in it, is about this request."""
    named = {"request_id": request_id}
    if trace_id is not None:
        named["trace_id"] = trace_id
    token = _ABOUT.set(named)
    try:
        yield
    finally:
        _ABOUT.reset(token)


class JsonFormatter(logging.Formatter):
    """``time`` (UTC), ``level``, ``logger``, ``message``; ``request_id`` and ``trace_id`` where it
    is about a request; ``exception`` where there is one; what the record's ``fields`` have."""

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
    """The object of a line that :class:`JsonFormatter` wrote; None for any other."""
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
