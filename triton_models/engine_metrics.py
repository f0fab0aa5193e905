"""The sources of the step engine's metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sampling.service import DetailService
from sampling.statistics import Labels
from triton_models.event_channel import EventPublisher
from triton_models.metrics import Source
from triton_models.state import EngineStatus


def engine_sources(
    service: DetailService, events: EventPublisher, state: Callable[[], EngineStatus]
) -> Mapping[str, Source]:
    """Thread-safe sources.

    Args:
        state: returns the engine's last status.
    """
    engine, detail, texts = service.engine.stats, service.stats, service.texts

    def cache_requests() -> Mapping[Labels, float]:
        prompts: dict[Labels, float] = {
            ("text", "hit"): texts.hits,
            ("text", "miss"): texts.misses,
        }
        return {**prompts, **detail.crops.values()}

    return {
        "segs_queue_seconds": lambda: {(): state().queued_s},
        "segs_live": lambda: {(): state().segs},
        "segs_queued": lambda: {(): state().queued},
        "segs_step_seconds": engine.step_seconds,
        "segs_batch_fill_ratio": engine.batch_fill,
        "segs_batch_requests": engine.batch_requests,
        "segs_batch_rows_total": engine.batch_rows.values,
        "segs_batch_failures_total": engine.batch_failures.values,
        "segs_cache_requests_total": cache_requests,
        "segs_text_cache_bytes": lambda: {(): texts.kept_bytes},
        "segs_events_lost_total": lambda: {(): events.lost},
        "segs_stage_seconds": detail.stage_seconds,
    }
