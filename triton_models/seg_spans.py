"""Spans for each SEG of a traced request: its stages, steps and batches.

::

    segs_detailer            the front end; from the client's span, if it has one
    ├── prepare
    ├── sample
    │   └── seg              one pass of a SEG, after it got a place
    │       ├── encode       its prompts and its crop
    │       │   └── batch    a call of a network, from the batch's start to its end
    │       ├── step         from the end of the last one, waiting included
    │       │   └── batch
    │       └── decode
    │           └── batch
    └── composite

During the request only times are recorded, a microsecond each; a thread makes the spans after its
end.
"""

from __future__ import annotations

import functools
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from request_plan.plan import FailedSeg, Plan
from sampling.progress import (
    BatchListener,
    BatchTiming,
    PassStage,
    RequestListener,
    SampledPass,
    Step,
    StepListener,
)
from triton_models.tracing import Attributes, Span, Tracing

log = logging.getLogger(__name__)

_NS_PER_MS = 1e6


@functools.cache
def _maker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "spans")


@dataclass
class _Stretch:
    """A part of a pass, or one of its steps."""

    name: str
    start_ns: int
    end_ns: int = 0
    values: dict[str, int] = field(default_factory=dict)
    batches: list[BatchTiming] = field(default_factory=list)


@dataclass
class _Pass:
    """A pass of a SEG: its stretches, of which the last one may be running."""

    stretches: list[_Stretch]
    values: dict[str, Any]
    end_ns: int = 0
    failed: str | None = None

    def begin(self, name: str) -> None:
        """Ends the running stretch and begins the next."""
        now_ns = time.time_ns()
        self.stretches[-1].end_ns = now_ns
        self.stretches.append(_Stretch(name, now_ns))

    def end(self, failed: str | None = None) -> None:
        self.failed = failed
        self.end_ns = self.stretches[-1].end_ns = time.time_ns()


class SegSpans(RequestListener):
    """Records the spans of one request.

    Args:
        within: the request's span in this process.
    """

    def __init__(self, tracing: Tracing, within: Span, plan: Plan) -> None:
        self._tracing = tracing
        self._within = within
        self._plan = plan
        self._passes: dict[tuple[int, int], _Pass] = {}

    def started(self, index: int, batch_pass: int) -> None:
        """Records the start of a pass."""
        seg = self._plan.segs[index]
        values: dict[str, Any] = {"seg": index, "pass": batch_pass, "steps": seg.steps}
        if seg.crop is not None:
            values |= {"width": seg.crop.width, "height": seg.crop.height}
        one = _Pass([_Stretch("encode", time.time_ns())], values)
        self._passes[index, batch_pass] = one

    def entered(self, index: int, batch_pass: int, part: PassStage) -> None:
        """Records the start of a stage."""
        one = self._passes[index, batch_pass]
        if part == "sample":
            one.begin("step")
            return
        # The sampler's work after its last step's outputs belongs to this step.
        last = one.stretches[-1]
        if last.name == "step" and not last.values and not last.batches:
            one.stretches.pop()
        one.begin("decode")

    def step_listener(self, index: int, batch_pass: int) -> StepListener:
        """The listener of a pass's steps."""
        one = self._passes[index, batch_pass]

        def step_listener(step: Step) -> None:
            one.stretches[-1].values = {"cycle": step.cycle, "step": step.step}
            one.begin("step")

        return step_listener

    def batch_listener(self, index: int, batch_pass: int) -> BatchListener:
        """The listener of a pass's batches."""
        one = self._passes[index, batch_pass]
        return lambda batch: one.stretches[-1].batches.append(batch)

    def done(self, done: SampledPass) -> None:
        """Records the end of a pass."""
        one = self._passes[done.seg, done.batch_pass]
        one.values["steps_run"] = done.steps_run
        one.end()

    def failed(self, seg: FailedSeg) -> None:
        """Records a failed pass."""
        self._passes[seg.index, seg.batch_pass].end(seg.error.code)

    def ended(self) -> None:
        """Makes the spans of the request."""
        for one in self._passes.values():
            if not one.end_ns:  # the request ended before it
                one.end("CANCELLED")
        self._within.note(pipeline=self._plan.request.pipeline, segs=len(self._plan.segs))
        _maker().submit(self._make)

    def _make(self) -> None:
        try:
            for one in self._passes.values():
                self._make_pass(one)
        except Exception:
            log.exception("spans of request %r are missing", self._plan.request_id)

    def _make_pass(self, one: _Pass) -> None:
        add, first = self._tracing.add, one.stretches[0]
        seg = add(self._within, "seg", first.start_ns, one.end_ns, one.values, failed=one.failed)
        for stretch in one.stretches:
            span = add(seg, stretch.name, stretch.start_ns, stretch.end_ns, stretch.values)
            for batch in stretch.batches:
                values: Attributes = {
                    "network": batch.network,
                    "rows": batch.rows,
                    "batch_rows": batch.batch_rows,
                    "batch_calls": batch.batch_calls,
                    "batch_requests": batch.batch_requests,
                    "waited_ms": round((batch.begun_ns - batch.queued_ns) / _NS_PER_MS, 3),
                }
                failed = None if batch.answered else "failed"
                add(span, "batch", batch.begun_ns, batch.ended_ns, values, failed=failed)
