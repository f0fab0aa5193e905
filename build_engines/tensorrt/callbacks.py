"""What TensorRT calls while it works: its log, and its progress.

Their base classes come with the module ``tensorrt``, so they are made when that is there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

log = logging.getLogger("tensorrt")

_LEVELS = {
    "INTERNAL_ERROR": logging.WARNING,
    "ERROR": logging.WARNING,
    "WARNING": logging.INFO,
    "INFO": logging.DEBUG,
}
"""TensorRT's severities as ours. Its errors are often a kernel that was tried and refused; one
that ends the build becomes the build's error. Its verbose messages are dropped."""

_REPORT_S = 30.0
_TOLD = 3
"""Errors that a failed build repeats: its last."""


def make_logger(trt: Any) -> Any:
    """An ``ILogger`` that writes to :mod:`logging`; ``said()`` gives the last errors."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=_TOLD)

        def log(self, severity: Any, msg: str) -> None:
            level = _LEVELS.get(severity.name)
            if level is None:
                return
            if level == logging.WARNING and msg not in self.errors:
                self.errors.append(msg)
            log.log(level, "%s", msg)

        def said(self) -> str:
            return "; ".join(self.errors) or "it gives no reason"

    return Logger()


def make_monitor(trt: Any, cancelled: threading.Event) -> Any:
    """An ``IProgressMonitor`` that logs where a long build is and ends a cancelled one."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.reported = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() - self.reported >= _REPORT_S:
                self.reported = time.monotonic()
                log.info("%s: %d of %d", phase_name, step + 1, self.steps.get(phase_name, 0))
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()
