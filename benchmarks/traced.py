"""The trace of one request to a real server, as a tree, and how its times add up.

    python -m benchmarks.traced [--repository DIR] [--pipeline NAME] [--segs N] [--steps N]

Starts a server of its own that sends its traces to a collector of its own, warms it up, and asks
for one picture. Returns 1 if the parts of a span differ from it by more than 5 %.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from opentelemetry.sdk.trace import TracerProvider

from benchmarks.collector import Collector, SeenSpan, Trace, covered
from benchmarks.machine import describe
from segs_client import Client
from serving.server import EmbeddedServer

MOST_APART = 0.05
_REPOSITORY = Path(__file__).parent.parent / "build" / "tests"
_SHOWN_STEPS = 2
"""At the beginning and at the end; those between are summed up."""
_KEYS = ("seg", "step", "network", "batch_rows", "batch_calls", "waited_ms", "width", "height")


def traced_request(
    server: EmbeddedServer, collector: Collector, pipeline: str, segs: int, **options: Any
) -> Trace:
    """The whole trace of one request, after a first one like it, of which nothing is kept."""
    side = 256
    image = np.random.default_rng(1).integers(0, 256, (side, side * segs, 3), dtype=np.uint8)
    boxes = [(side * n + 64, 64, side * n + 192, 192) for n in range(segs)]
    tracer = TracerProvider().get_tracer("benchmarks.traced")
    with Client(server.grpc_url, pipeline=pipeline, timeout_s=300) as client:
        client.detail(image, boxes, **options)
        with tracer.start_as_current_span("caller") as caller:
            client.detail(image, boxes, **options)
    trace_id = f"{caller.get_span_context().trace_id:032x}"

    def is_whole(trace: Trace) -> bool:
        names = [each.name for each in trace.spans]
        return names.count("decode") == segs and {"segs_detailer", "composite"} <= set(names)

    return collector.trace(trace_id, is_whole)


def sums(trace: Trace) -> dict[str, float]:
    """How much of each span that consists of parts they add up to, as a ratio; of the SEGs and the
    steps the one that is furthest off."""
    front_end, sample = trace.one("segs_detailer"), trace.one("sample")
    segs = trace.within(sample, "seg")
    first, last = min(each.start_ns for each in segs), max(each.end_ns for each in segs)
    steps = [step for seg in segs for step in trace.within(seg, "step")]
    return {
        "request: prepare + sample + composite": covered(front_end, trace.within(front_end)),
        "sample: from the first SEG's start to the last one's end": (last - first)
        / (sample.end_ns - sample.start_ns),
        "SEG: encode + steps + decode": min(covered(seg, trace.within(seg)) for seg in segs),
        "steps: waiting + batches": _busy_s(trace, steps) / sum(step.seconds for step in steps),
    }


def _busy_s(trace: Trace, steps: list[SeenSpan]) -> float:
    """Seconds that their calls have waited, and been at their networks."""
    calls = [each for step in steps for each in trace.within(step)]
    waited_ms: float = sum(each.attributes["segs.waited_ms"] for each in calls)
    return waited_ms / 1e3 + sum(each.seconds for each in calls)


def tree(trace: Trace) -> Iterator[str]:
    """The spans as lines: milliseconds from the request's start, milliseconds, name, attributes."""
    front_end = trace.one("segs_detailer")
    for depth, span in trace.walk(front_end):
        step = span.attributes.get("segs.step")
        if span.name == "step" or _is_of_step(trace, span):
            number = step if step is not None else _step_of(trace, span)
            steps = _steps_of(trace, span)
            if _SHOWN_STEPS < number <= steps - _SHOWN_STEPS:
                if span.name == "step" and number == _SHOWN_STEPS + 1:
                    yield f"{'':22}{'  ' * depth}… {steps - 2 * _SHOWN_STEPS} more steps"
                continue
        told = ", ".join(
            f"{key} {span.attributes[f'segs.{key}']}"
            for key in _KEYS
            if f"segs.{key}" in span.attributes
        )
        at_ms = (span.start_ns - front_end.start_ns) / 1e6
        yield f"{at_ms:9.1f} {span.seconds * 1e3:9.1f}   {'  ' * depth}{span.name}  {told}".rstrip()


def _parent(trace: Trace, span: SeenSpan) -> SeenSpan:
    return next(each for each in trace.spans if each.span_id == span.parent_id)


def _is_of_step(trace: Trace, span: SeenSpan) -> bool:
    return span.name == "batch" and _parent(trace, span).name == "step"


def _step_of(trace: Trace, span: SeenSpan) -> int:
    return int(_parent(trace, span).attributes["segs.step"])


def _steps_of(trace: Trace, span: SeenSpan) -> int:
    while span.name != "seg":
        span = _parent(trace, span)
    return int(span.attributes["segs.steps"])


def main(arguments: list[str] | None = None) -> int:
    """Prints tree and sums."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traced", description=__doc__)
    parser.add_argument("--repository", type=Path, default=_REPOSITORY, metavar="DIR")
    parser.add_argument("--pipeline", default="sd15")
    parser.add_argument("--segs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args(arguments)
    with Collector() as collector:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.endpoint
        with EmbeddedServer([options.repository]) as server:
            trace = traced_request(
                server, collector, options.pipeline, options.segs, steps=options.steps,
                guide_size=256, max_size=256,
            )  # fmt: skip
    found = sums(trace)
    rows = [f"| {name} | {ratio:.1%} |" for name, ratio in found.items()]
    lines = [describe(), "", "| of | its parts |", "| --- | --- |", *rows, ""]
    lines += ["```", " at, ms  takes, ms", *tree(trace), "```"]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if all(abs(1 - ratio) <= MOST_APART for ratio in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
