"""Metrics of the Python models on Triton's page for Prometheus.

A thread of each process publishes its metrics once a second. Values are counted in plain Python: a
call of Triton's metrics takes microseconds, and the step engine makes none.

In tritonserver, processes with the same family and labels write to one series, whose increments add
up; so counters of models with several processes need no label for the process. A series outlives
its process, and a new process continues it; so increments since the process's start are published,
and no counter falls.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sampling.statistics import Labels, Observations
from triton_models import environment, pb_utils

log = logging.getLogger(__name__)

PUBLISH_S = 1.0
_AT_ONCE = 16
"""Measurements published without a pause: Triton's call blocks other threads for 9 µs."""
_BATCH_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_STAGE_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_FILL = (0.125, 0.25, 0.5, 0.75, 1.0)
_REQUESTS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Metric:
    """A metric's kind, meaning and labels, and a histogram's bounds."""

    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS: Mapping[str, Metric] = {
    # The front ends'.
    "segs_requests_answered_total": Metric(
        "counter", "Requests with a result, canaries included.", ("model",)
    ),
    "segs_requests_refused_total": Metric(
        "counter",
        "Requests that were refused: the caller has to correct them or to send them again.",
        ("model", "code"),
    ),
    "segs_errors_total": Metric(
        "counter", "Requests that failed, or whose deadline passed.", ("model", "code")
    ),
    "segs_requests_cancelled_total": Metric(
        "counter",
        "Cancelled requests: the client has disconnected (gone), or a call cancelled it (asked).",
        ("model", "cause"),
    ),
    "segs_request_seconds": Metric(
        "histogram", "From a request's arrival to its end or error.", ("model",), _STAGE_S
    ),
    "segs_requests_in_flight": Metric(
        "gauge", "Requests of a front end in the stages.", ("model",)
    ),
    "segs_requests_waiting": Metric(
        "gauge", "Requests that wait in a front end for a place in flight.", ("model",)
    ),
    "segs_waiting_seconds": Metric(
        "gauge", "Estimated seconds of the waiting requests of a front end.", ("model",)
    ),
    "segs_streams_followed": Metric(
        "gauge", "Streams that are subscribed to the step engine's events."
    ),
    "segs_calls_lost_total": Metric(
        "counter",
        "Calls that never end because a stage's process died with them.",
        ("model",),
    ),
    # The step engine's.
    "segs_queue_seconds": Metric(
        "gauge", "Estimated device seconds until all requests in the step engine are done."
    ),
    "segs_live": Metric("gauge", "SEGs that are being sampled."),
    "segs_queued": Metric("gauge", "SEGs of requests in the step engine that wait for a place."),
    "segs_step_seconds": Metric(
        "histogram", "Time of a batch at its network.", ("network",), _BATCH_S
    ),
    "segs_batch_fill_ratio": Metric(
        "histogram",
        "Rows of a batch over the network's limit for this shape.",
        ("network", "shape"),
        _FILL,
    ),
    "segs_batch_requests": Metric(
        "histogram", "Requests that share a batch.", ("network",), _REQUESTS
    ),
    "segs_batch_rows_total": Metric("counter", "Rows sent to networks.", ("network", "shape")),
    "segs_batch_failures_total": Metric(
        "counter", "Batches that failed; their calls are run again, one by one.", ("network",)
    ),
    "segs_cache_requests_total": Metric(
        "counter",
        "Uses of prompts' encodings and crops' latents: cached or not.",
        ("cache", "result"),
    ),
    "segs_text_cache_bytes": Metric("gauge", "Memory of the cached encoded prompts."),
    "segs_events_lost_total": Metric(
        "counter", "Dropped events of streams: the subscriber was too slow or disconnected."
    ),
    # Of several stages.
    "segs_stage_seconds": Metric(
        "histogram",
        "Time of a stage, waiting included: prepare and composite of a request; encode, sample and "
        "decode of a pass of a SEG.",
        ("stage",),
        _STAGE_S,
    ),
    "segs_segments_total": Metric(
        "counter", "Passes of SEGs in responses, by their status.", ("status",)
    ),
}
"""Metrics by name. The meanings are Prometheus' help texts and the rows of docs/metrics.md."""

Source = Callable[[], Mapping[Labels, float]] | Observations
"""A counter's sums since the process's start, a gauge's values, or a histogram's measurements."""
MetricFamily = Any
"""Triton's ``pb_utils.MetricFamily``."""


class Publisher:
    """Publishes changed values to Triton; to be used from one thread.

    Args:
        family: returns a metric's family by its name.
        sources: of the metrics, by name.
    """

    def __init__(
        self, family: Callable[[str], MetricFamily], sources: Mapping[str, Source]
    ) -> None:
        self._sources = sources
        self._families = {name: family(name) for name in sources}
        self._series: dict[tuple[str, Labels], Any] = {}
        self._published: dict[tuple[str, Labels], float] = {}
        for source in sources.values():
            if isinstance(source, Observations):
                source.wanted = True

    def publish(self) -> None:
        """Publishes the changes since the last call."""
        for name, source in self._sources.items():
            if isinstance(source, Observations):
                self._observe(name, source)
                continue
            for labels, value in source().items():
                self._update(name, labels, value)

    def _observe(self, name: str, source: Observations) -> None:
        for number, (value, labels) in enumerate(source.take(), start=1):
            self._one(name, labels).observe(value)
            if number % _AT_ONCE == 0:
                time.sleep(0)  # lets the engine's thread run

    def _update(self, name: str, labels: Labels, value: float) -> None:
        before = self._published.get((name, labels))
        if value == before:
            return
        if METRICS[name].kind == "gauge":
            self._one(name, labels).set(value)
        else:
            self._one(name, labels).increment(value - (before or 0.0))
        self._published[name, labels] = value

    def _one(self, name: str, labels: Labels) -> Any:
        """The series of these labels."""
        series = self._series.get((name, labels))
        if series is None:
            metric = METRICS[name]
            more = {"buckets": list(metric.buckets)} if metric.buckets else {}
            named = dict(zip(metric.labels, labels, strict=True))
            series = self._families[name].Metric(labels=named, **more)
            self._series[name, labels] = series
        return series


def start_publishing(sources: Mapping[str, Source]) -> None:
    """Publishes the sources in a thread, unless the metrics' port is closed.

    To be called in a stub.
    """
    if environment.METRICS not in os.environ:
        return
    family: Any = getattr(pb_utils, "MetricFamily", None)
    # Older servers have no histograms, or no metrics of models at all.
    known = {name: getattr(family, METRICS[name].kind.upper(), None) for name in sources}

    def make(name: str) -> MetricFamily:
        return family(name=name, description=METRICS[name].meaning, kind=known[name])

    if missing := [name for name, kind in known.items() if kind is None]:
        log.warning("this tritonserver cannot publish %s", ", ".join(missing))
    published = {name: source for name, source in sources.items() if name not in missing}
    publisher = Publisher(make, published)
    threading.Thread(target=_publish, args=(publisher,), name="metrics", daemon=True).start()


def _publish(publisher: Publisher) -> None:
    try:
        while True:
            publisher.publish()
            time.sleep(PUBLISH_S)
    except Exception:
        log.exception("this process publishes no metrics any more")
