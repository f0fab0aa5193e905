"""When traces are wanted, and what a process without them does."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from triton_models import tracing
from triton_models.errors import TracingError
from triton_models.tracing import Tracing, check_tracing, is_wanted, tracing_environment

HERE = "http://127.0.0.1:4318"
PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": HERE}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": HERE}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": HERE, "OTEL_SDK_DISABLED": "True"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": HERE, "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_opentelemetrys_variables_say_whether(environment: dict[str, str], wanted: bool) -> None:
    assert is_wanted(environment) is wanted
    check_tracing(environment)
    assert bool(tracing_environment(environment)) is wanted


def test_what_the_caller_set_stays() -> None:
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": HERE, "OTEL_SERVICE_NAME": "shop"}
    assert "OTEL_SERVICE_NAME" not in tracing_environment(given)


def test_an_unknown_protocol_is_refused() -> None:
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": HERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
    with pytest.raises(TracingError, match="http/protobuf or grpc"):
        check_tracing(given)


@pytest.mark.parametrize("missing", ["opentelemetry.sdk", "opentelemetry.exporter"])
def test_missing_packages_are_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> object:
        if name.startswith(f"{missing}."):
            raise ModuleNotFoundError(name)
        return None if name == missing else object()

    monkeypatch.setattr(tracing, "find_spec", find)
    with pytest.raises(TracingError, match="opentelemetry-exporter-otlp-proto-http"):
        check_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": HERE})


def request_with(**parameters: Any) -> Any:
    """As Triton gives it."""
    return SimpleNamespace(parameters=lambda: json.dumps(parameters))


def test_nothing_is_made_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    tracing = Tracing.of_environment()
    with tracing.span("segs_detailer", request_with(traceparent=PARENT)) as span:
        span.note(request_id="1")
        assert span.trace_id is None
        assert span.parameters() == {}
        assert tracing.add(span, "seg", 1, 2, {}).trace_id is None
    tracing.close()


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def wanted(exported: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return Tracing(provider)


def test_a_span_goes_on_from_the_callers(wanted: Tracing, exported: InMemorySpanExporter) -> None:
    request = request_with(traceparent=PARENT, tracestate="vendor=1", token=5)
    with wanted.span("segs_detailer", request, is_front_end=True) as span:
        assert span.trace_id == PARENT.split("-")[1]
        passed_on = span.parameters()
        wanted.add(span, "seg", 10, 20, {"seg": 3, "step": None}, failed="INTERNAL")
    assert passed_on["traceparent"].startswith(PARENT[:36])
    assert passed_on["traceparent"] != PARENT
    assert passed_on["tracestate"] == "vendor=1"
    seg, front_end = exported.get_finished_spans()
    assert front_end.parent is not None
    assert f"{front_end.parent.span_id:016x}" == PARENT.split("-")[2]
    assert seg.parent == front_end.get_span_context()
    assert (seg.start_time, seg.end_time, dict(seg.attributes or {})) == (10, 20, {"segs.seg": 3})
    assert seg.status.description == "INTERNAL"


@pytest.mark.parametrize(
    "parameters", [{}, {"traceparent": 5}, {"traceparent": "00-1-2-3"}, {"traceparent": "x" * 9999}]
)
def test_without_a_good_parent_a_trace_begins(
    parameters: dict[str, Any], wanted: Tracing, exported: InMemorySpanExporter
) -> None:
    with wanted.span("segs_detailer", request_with(**parameters)) as span:
        assert span.trace_id is not None
    (front_end,) = exported.get_finished_spans()
    assert front_end.parent is None


def test_what_is_not_sampled_stays_so(wanted: Tracing, exported: InMemorySpanExporter) -> None:
    with wanted.span("segs_detailer", request_with(traceparent=f"{PARENT[:-1]}0")) as span:
        assert span.trace_id is None
        assert span.parameters()["traceparent"].endswith("-00")
        wanted.add(span, "seg", 10, 20, {})
    assert not exported.get_finished_spans()


def test_of_an_error_its_kind_is_told(wanted: Tracing, exported: InMemorySpanExporter) -> None:
    with wanted.span("prepare", request_with()) as span:
        span.fail(ValueError("/a/path"))
    (prepare,) = exported.get_finished_spans()
    assert prepare.status.description == "ValueError"
