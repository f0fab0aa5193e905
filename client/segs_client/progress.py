"""A stream's progress on a terminal: a bar for all SEGs, and one for each running SEG."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

from segs_client.events import (
    AcceptedEvent,
    QueuedEvent,
    SegmentEvent,
    SegmentStartedEvent,
    StepEvent,
    StreamEvent,
)

_MOST_BARS = 8
"""SEGs shown at once; further running SEGs are not shown."""
_Place = tuple[int, int]


class ProgressBars:
    """Bars on a terminal; a context manager that removes them.

    Args:
        file: the terminal; None: stderr.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = sys.stderr if file is None else file
        self._total: tqdm[Any] | None = None
        self._bars: dict[_Place, tqdm[Any]] = {}

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clear()

    def show(self, event: StreamEvent) -> None:
        """Updates the bars by an event."""
        if isinstance(event, QueuedEvent):
            self._clear()
            place = f"waiting behind {event.position}"
            if event.estimate_s is not None:
                place += f", done in about {event.estimate_s:.0f} s"
            self._total = self._bar(place, 0, "SEG", 0, "{desc}")
        elif isinstance(event, AcceptedEvent):
            self._clear()  # the request may have been started again
            self._total = self._bar("SEGs", event.seg_passes, "SEG", 0)
        elif isinstance(event, SegmentStartedEvent):
            self._start(event)
        elif isinstance(event, StepEvent):
            bar = self._bars.get((event.seg, event.batch_pass))
            if bar is not None:
                bar.n = min(bar.total or 0, event.cycle * event.steps + event.step)
                bar.refresh()
        elif isinstance(event, SegmentEvent):
            bar = self._bars.pop((event.seg, event.batch_pass), None)
            if bar is not None:
                bar.close()
            if self._total is not None and not event.status.startswith("skipped"):
                self._total.update()
                self._total.refresh()

    def _start(self, event: SegmentStartedEvent) -> None:
        taken = {abs(bar.pos) for bar in self._bars.values()}
        free = [line for line in range(1, _MOST_BARS + 1) if line not in taken]
        if free:
            name = f"SEG {event.seg}" + (f" {event.label}" if event.label else "")
            name += f", pass {event.batch_pass}" if event.batch_pass else ""
            bar = self._bar(name, event.cycles * event.steps, "step", free[0])
            self._bars[event.seg, event.batch_pass] = bar

    def _bar(
        self, name: str, total: int, unit: str, line: int, form: str | None = None
    ) -> tqdm[Any]:
        return tqdm(
            total=total, desc=name, unit=unit, position=line, leave=False, file=self._file,
            dynamic_ncols=True, bar_format=form,
        )  # fmt: skip

    def _clear(self) -> None:
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()
        if self._total is not None:
            self._total.close()
            self._total = None
