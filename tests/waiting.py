"""Waiting until something has happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 180.0
"""Ends a test that would wait for ever; far beyond what anything takes, on a busy machine too."""


def wait_until(happened: Callable[[], T | None], limit_s: float = PATIENCE_S) -> T:
    """What ``happened`` returns, once that counts as true."""
    deadline_s = time.monotonic() + limit_s
    while not (found := happened()):
        assert time.monotonic() < deadline_s, f"not within {limit_s:g} s"
        time.sleep(0.02)
    return found
