"""Progress of a long task: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)


class Advance(Protocol):
    """Reports the progress since the last call, optionally with the current item."""

    def __call__(self, count: int = 1, what: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Advance]:
    """Shows progress on stderr while its body runs; yields the function that reports it.

    Args:
        title: of the task.
        total: in units; ``unit`` "B" is shown with prefixes (MB, GB).
    """
    started = time.monotonic()
    if not sys.stderr.isatty():
        log.info("%s", title)
        yield _log_step
        log.info("%s: done in %.1f s", title, time.monotonic() - started)
        return
    with (
        logging_redirect_tqdm(),
        tqdm(total=total, desc=title, unit=unit, unit_scale=unit == "B", leave=False) as bar,
    ):

        def advance(count: int = 1, what: str = "") -> None:
            bar.update(count)
            if what:
                bar.set_postfix_str(what)

        yield advance
    log.info("%s: done in %.1f s", title, time.monotonic() - started)


def _log_step(count: int = 1, what: str = "") -> None:
    if what:
        log.info("  %s", what)
