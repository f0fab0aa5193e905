"""Reads the output of tritonserver and its Python models."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from triton_models.log_format import FIELDS, parse_json_line

_GLOG = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ \d+ \S+:\d+\] +(.*)", re.DOTALL)
_PYTHON = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) (\S+) (.*)", re.DOTALL)
_LEVELS = {"I": logging.DEBUG, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}
_NO_GPU = (
    "Unable to allocate pinned system memory",
    "failed to allocate pinned system memory",
    "CUDA memory pool disabled",
    "CudaDriverHelper has not been initialized",
    "unable to create stream for",
    "DCGM unable to start",
)
"""Messages of each start on a machine without a GPU."""
_FAILURES = (
    re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)", re.DOTALL),
    re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*)", re.DOTALL),
    re.compile(r"ensemble '(?P<model>[^']+)' (?P<reason>depends on .*)", re.DOTALL),
)

HIDDEN = "(hidden)"
"""Replaces a secret."""


class Line(NamedTuple):
    """One line of the server's output; ``logged``: by a Python model's logger; ``fields``: if it
    logs JSON."""

    level: int
    message: str
    logged: bool = False
    fields: Mapping[str, Any] = {}


def parse_line(line: str) -> Line | None:
    """Splits one line into logging level and message; None for tables and known noise."""
    if not line.strip() or line.startswith(("+-", "| ")):
        return None
    glog = _GLOG.fullmatch(line)
    if glog is not None:
        message = _unquote(glog[2])
        if not message or any(noise in message for noise in _NO_GPU):
            return None
        return Line(_LEVELS[glog[1]], message)
    if (named := parse_json_line(line)) is not None:
        return _logged(named)
    python = _PYTHON.fullmatch(line)
    if python is not None:
        level = int(getattr(logging, python[1]))
        return Line(level, f"{python[2]}: {python[3]}", logged=True)
    if line.startswith("Signal ("):
        return Line(logging.DEBUG, line)
    if line.startswith("error: "):
        return Line(logging.ERROR, line)
    return Line(logging.INFO, line)


def _logged(named: Mapping[str, Any]) -> Line:
    """A Python model's line, with its own time and logger."""
    level = logging.getLevelName(named["level"])
    fields = {key: value for key, value in named.items() if key not in ("level", "message")}
    return Line(level if isinstance(level, int) else logging.INFO, named["message"], True, fields)


def _unquote(text: str) -> str:
    """Triton writes most messages as JSON strings."""
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        try:
            return str(json.loads(text))
        except ValueError:
            return text[1:-1]
    return text


def parse_failure(message: str) -> tuple[str, str] | None:
    """The model and the reason, if the message is about a model that did not load."""
    for pattern in _FAILURES:
        found = pattern.search(message)
        if found is not None:
            return found["model"], _shorten(found["reason"])
    return None


def _shorten(reason: str) -> str:
    """The first line, and the origin of a Python traceback."""
    first, *rest = [line.strip() for line in reason.splitlines() if line.strip()]
    if len(rest) > 1 and rest[0] == "At:":
        return f"{first} (at {rest[1]})"
    return first


class LogReader:
    """Reads the server's output in a thread: forwards it, keeps its tail, collects failed models.

    Until ``started`` is set, all lines but warnings and the Python models' own are forwarded as
    DEBUG: failures at start are repeated many times, and :meth:`failures` sums them up.

    Args:
        secrets: replaced in all lines.
    """

    def __init__(
        self,
        stream: IO[str],
        log: logging.Logger,
        copy: Path | None,
        secrets: Iterable[str] = (),
    ) -> None:
        self._stream = stream
        self._log = log
        self._copy = copy
        self._secrets = tuple(secrets)
        self.started = threading.Event()
        self._tail: deque[str] = deque(maxlen=500)
        self._failures: dict[str, str] = {}
        self._incomplete = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="tritonserver-log", daemon=True)
        self._thread.start()

    def tail(self, lines: int = 50) -> str:
        """The last lines, unchanged."""
        with self._lock:
            return "\n".join(list(self._tail)[-lines:])

    def failures(self) -> dict[str, str]:
        """Models that did not load, with the reasons, without ensembles that failed only because of
        another model."""
        with self._lock:
            found = dict(self._failures)
        own = {model: why for model, why in found.items() if not why.startswith("depends on")}
        return own or found

    def join(self, timeout_s: float) -> None:
        """Waits until the output has ended."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        for raw in self._stream:
            line = raw.rstrip("\n")
            for secret in self._secrets:
                line = line.replace(secret, HIDDEN)
            if self._copy is not None:
                self._write(self._copy, line)
            self._take(line)

    def _write(self, path: Path, line: str) -> None:
        """Adds a line to the file. Failures are ignored: the server would block if its output were
        not read."""
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            if not self._incomplete:
                self._log.error("%s: %s; lines are missing there", path, error.strerror)
            self._incomplete = True

    def _take(self, line: str) -> None:
        parsed = parse_line(line)
        failure = None if parsed is None else parse_failure(parsed.message)
        with self._lock:
            self._tail.append(line)
            if failure is not None:
                self._failures.setdefault(*failure)
        if parsed is None:
            return
        quiet = not (self.started.is_set() or parsed.logged or parsed.level == logging.WARNING)
        level = logging.DEBUG if quiet else parsed.level
        self._log.log(level, "%s", parsed.message, extra={FIELDS: parsed.fields})
