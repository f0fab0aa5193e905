"""Spans of requests, and the headers that carry them to the server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from fake_server import FakeTriton, serving
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from test_client_calls import PICTURE, SEGS, echo

from segs_client import AsyncClient, Client, ServerError


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Of what a program that uses the client would have set up, for the process."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


class Listening:
    """A server that notes what came with each request."""

    def __init__(self) -> None:
        self.heard: list[dict[str, str]] = []

    def __call__(self, request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        self.heard.append(dict(context.invocation_metadata()))
        return echo(request, context)


@pytest.fixture
def listening() -> Listening:
    return Listening()


@pytest.fixture
def url(listening: Listening) -> Iterator[str]:
    with serving(FakeTriton(listening)) as address:
        yield address


def test_a_request_is_a_span_that_the_server_hears_of(
    url: str, listening: Listening, exported: InMemorySpanExporter
) -> None:
    tracer = trace.get_tracer("program")
    with tracer.start_as_current_span("program"), Client(url, pipeline="base") as client:
        client.detail(PICTURE, SEGS, request_id="1")
    span, program = exported.get_finished_spans()
    assert span.parent == program.get_span_context()
    context = span.get_span_context()
    assert context is not None
    sent = f"00-{context.trace_id:032x}-{context.span_id:016x}-"
    assert listening.heard[0]["traceparent"].startswith(sent)
    told = dict(span.attributes or {})
    assert told["segs.request_id"] == "1"
    assert (told["segs.server"], told["segs.tries"]) == (url, 1)


def test_the_async_client_does_the_same(
    url: str, listening: Listening, exported: InMemorySpanExporter
) -> None:
    async def ask() -> None:
        async with AsyncClient(url, pipeline="base") as client:
            await asyncio.gather(*(client.detail(PICTURE, SEGS) for _ in range(3)))

    asyncio.run(ask())
    spans = exported.get_finished_spans()
    assert [each.name for each in spans] == ["segs_client.detail"] * 3
    heard = {each["traceparent"].split("-")[2] for each in listening.heard}
    contexts = [each.get_span_context() for each in spans]
    assert heard == {f"{each.span_id:016x}" for each in contexts if each is not None}


def test_a_failed_request_has_its_code(exported: InMemorySpanExporter) -> None:
    def fails(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        context.abort(grpc.StatusCode.INTERNAL, "broken")
        raise AssertionError  # abort raises

    with (
        serving(FakeTriton(fails)) as url,
        Client(url, pipeline="base") as client,
        pytest.raises(ServerError),
    ):
        client.detail(PICTURE, SEGS)
    (span,) = exported.get_finished_spans()
    assert span.status.description == "INTERNAL"


def test_without_opentelemetry_nothing_is_sent(
    url: str, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with Client(url, pipeline="base") as client:
        client.detail(PICTURE, SEGS)
    assert "traceparent" not in listening.heard[0]
