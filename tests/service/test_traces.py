"""Traces through the real server: the spans of a request, and that their times add up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider

from benchmarks.collector import Collector, Trace
from segs_client import Client, InvalidRequest
from segs_client.contract import MODEL_NAME, STREAM_MODEL_NAME
from serving.server import EmbeddedServer
from tests.waiting import wait_until

pytestmark = pytest.mark.server

PICTURE = np.random.default_rng(3).integers(0, 256, (128, 256, 3), dtype=np.uint8)
BOXES = [(20, 30, 70, 80), (150, 30, 200, 80)]
STEPS = 6
OPTIONS: dict[str, Any] = {"guide_size": 128, "max_size": 128, "steps": STEPS}
DETAIL, STREAM = "segs_client.detail", "segs_client.stream"
SERVER, CLIENT = 2, 3
"""Kinds of spans."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced(sd15: Path, collector: Collector) -> Iterator[EmbeddedServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        with EmbeddedServer([sd15], log_format="json") as running:
            yield running


@pytest.fixture
def tracers(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> TracerProvider:
    """What a program that uses the client would have set up, for the process."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    exporter = OTLPSpanExporter(f"{collector.endpoint}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(otel, "get_tracer", provider.get_tracer)
    return provider


def client_of(server: EmbeddedServer) -> Client:
    return Client(server.grpc_url, pipeline="sd15", timeout_s=120)


def trace_of(collector: Collector, request_id: str, *names: str) -> Trace:
    """The trace of a request once it has these spans, each as often as it is named."""

    def found(trace: Trace) -> bool:
        had = [each.name for each in trace.spans]
        return all(had.count(name) >= names.count(name) for name in names)

    def begun() -> str | None:
        ids = [
            each.trace_id
            for each in collector.spans
            if each.attributes.get("segs.request_id") == request_id
        ]
        return ids[0] if ids else None

    collector.trace("", lambda _: begun() is not None)
    return collector.trace(str(begun()), found)


def detailed(server: EmbeddedServer, collector: Collector, number: int, **options: Any) -> Trace:
    with client_of(server) as client:
        client.detail(
            PICTURE, BOXES, request_id=f"whole-{number}", prompt=f"secret {number}", **options
        )
    return trace_of(collector, f"whole-{number}", *["decode"] * 2, "composite", DETAIL, MODEL_NAME)


def logged_of(server: EmbeddedServer, request_id: str) -> list[dict[str, Any]]:
    """Lines about a request."""
    lines = [json.loads(each) for each in server.tail(500).splitlines() if each.startswith("{")]
    return [each for each in lines if each.get("request_id") == request_id]


def test_a_request_is_one_trace(
    traced: EmbeddedServer, collector: Collector, tracers: TracerProvider
) -> None:
    trace = detailed(traced, collector, 0, **OPTIONS)
    (client,) = (each for each in trace.spans if each.kind == CLIENT)
    assert not client.parent_id
    assert client.attributes["segs.tries"] == 1
    (front_end,) = trace.within(client)
    assert (front_end.name, front_end.kind, front_end.service) == (
        MODEL_NAME,
        SERVER,
        "segs-detailer",
    )
    assert [each.name for each in trace.within(front_end)] == ["prepare", "sample", "composite"]
    sample = trace.one("sample")
    assert sample.attributes["segs.segs"] == len(BOXES)
    segs = trace.within(sample)
    assert [each.attributes["segs.seg"] for each in segs] == [0, 1]
    for seg in segs:
        parts = [each.name for each in trace.within(seg)]
        assert parts == ["encode", *["step"] * STEPS, "decode"]
        steps = [each.attributes["segs.step"] for each in trace.within(seg, "step")]
        assert steps == list(range(1, STEPS + 1))
        for step in trace.within(seg, "step"):
            (batch,) = trace.within(step)
            assert batch.attributes["segs.network"] == "sd15_unet"
            assert batch.attributes["segs.rows"] == 2
            assert step.start_ns <= batch.start_ns < batch.end_ns <= step.end_ns
    networks = {each.attributes.get("segs.network") for each in trace.spans}
    assert {"sd15_vae_encoder", "sd15_vae_decoder", "sd15_text_encoder"} <= networks
    assert client.start_ns <= front_end.start_ns < client.end_ns


def test_segs_of_a_request_are_seen_to_share_batches(
    traced: EmbeddedServer, collector: Collector, tracers: TracerProvider
) -> None:
    trace = detailed(traced, collector, 1, **OPTIONS)
    calls = [each for each in trace.spans if each.name == "batch"]
    shared = [each for each in calls if each.attributes["segs.batch_calls"] == 2]
    assert shared
    for batch in shared:
        alike = [each for each in shared if each.start_ns == batch.start_ns]
        assert len(alike) == 2
        assert all(each.end_ns == batch.end_ns for each in alike)


def test_nothing_is_told_of_what_was_sent(
    traced: EmbeddedServer, collector: Collector, tracers: TracerProvider
) -> None:
    detailed(traced, collector, 2, **OPTIONS)
    told = json.dumps([[each.name, each.attributes, each.code] for each in collector.spans])
    assert "secret" not in told


def test_a_stream_is_traced_to_its_end(
    traced: EmbeddedServer, collector: Collector, tracers: TracerProvider
) -> None:
    with client_of(traced) as client:
        *_, last = client.stream(PICTURE, BOXES[:1], request_id="streamed", **OPTIONS)
    assert last.result is not None
    trace = trace_of(collector, "streamed", "decode", "composite", STREAM, STREAM_MODEL_NAME)
    (client_span,) = (each for each in trace.spans if each.kind == CLIENT)
    (front_end,) = trace.within(client_span)
    assert front_end.start_ns >= client_span.start_ns
    assert len([each for each in trace.spans if each.name == "step"]) == STEPS


def test_who_goes_leaves_what_was_done(
    traced: EmbeddedServer, collector: Collector, tracers: TracerProvider
) -> None:
    with client_of(traced) as client:
        updates = client.stream(PICTURE, BOXES[:1], request_id="gone", **{**OPTIONS, "steps": 1000})
        next(each for each in updates if each.event.event == "step")
        updates.close()
    trace = trace_of(collector, "gone", "seg", "sample", STREAM, STREAM_MODEL_NAME)
    assert trace.one("seg").code == "CANCELLED"
    (front_end,) = (each for each in trace.spans if each.kind == SERVER)
    assert front_end.code == front_end.attributes["segs.code"] == "CANCELLED"


def test_a_refusal_is_a_span_with_its_code(
    traced: EmbeddedServer, collector: Collector, tracers: TracerProvider
) -> None:
    with client_of(traced) as client, pytest.raises(InvalidRequest):
        client.detail(PICTURE, BOXES, pipeline="none", request_id="refused", **OPTIONS)
    trace = trace_of(collector, "refused", DETAIL, MODEL_NAME)
    assert {each.code for each in trace.spans} == {"INVALID_ARGUMENT"}


def test_what_the_caller_does_not_sample_is_not_traced(
    traced: EmbeddedServer, collector: Collector, tracers: TracerProvider
) -> None:
    unsampled = otel.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=otel.TraceFlags(0))
    with (
        otel.use_span(otel.NonRecordingSpan(unsampled)),
        client_of(traced) as client,
    ):
        client.detail(PICTURE, BOXES[:1], request_id="unsampled", **OPTIONS)
    with client_of(traced) as client:
        client.detail(PICTURE, BOXES[:1], request_id="sampled", **OPTIONS)
    trace_of(collector, "sampled", "decode", "composite", DETAIL, MODEL_NAME)
    ids = {each.attributes.get("segs.request_id") for each in collector.spans}
    assert "unsampled" not in ids
    assert not any(str(each).startswith("canary-") for each in ids)


def test_log_lines_name_request_and_trace(
    traced: EmbeddedServer, collector: Collector, tracers: TracerProvider
) -> None:
    with client_of(traced) as client:
        client.detail(PICTURE, BOXES[:1], request_id="logged", **OPTIONS)
    trace = trace_of(collector, "logged", "sample", DETAIL, MODEL_NAME)
    wait_until(lambda: bool(logged_of(traced, "logged")))
    (line,) = logged_of(traced, "logged")
    assert line["trace_id"] == trace.spans[0].trace_id
    assert (line["level"], line["model"], line["code"]) == ("INFO", MODEL_NAME, "OK")
    assert line["seconds"] >= trace.one("sample").seconds
