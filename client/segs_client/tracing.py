"""OpenTelemetry at the client: a span for each request, and headers by which the server's spans
are within it.

Nothing is done where the package ``opentelemetry-api`` is not installed, or the program has not set
up OpenTelemetry; how it does that is its own business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class RequestSpan:
    """The span of a request; this one is nothing."""

    def headers(self) -> dict[str, str]:
        """What is sent with the request as gRPC's metadata."""
        return {}

    def note(self, **values: str | int | float) -> None:
        """Attributes, named ``segs.…``."""


class _Recorded(RequestSpan):
    def __init__(self, span: Any, headers: dict[str, str]) -> None:
        self._span = span
        self._headers = headers

    def headers(self) -> dict[str, str]:
        return self._headers

    def note(self, **values: str | int | float) -> None:
        for name, value in values.items():
            self._span.set_attribute(f"segs.{name}", value)


@contextlib.contextmanager
def request_span(name: str, request_id: str) -> Iterator[RequestSpan]:
    """A span within the current one, until the block is left. It is not made the current one
    itself: what a program does between a stream's updates is not within it."""
    try:
        from opentelemetry import propagate, trace
    except ImportError:
        yield RequestSpan()
        return
    named = {"segs.request_id": request_id, "rpc.system": "grpc"}
    tracer = trace.get_tracer("segs_client")
    span = tracer.start_span(name, kind=trace.SpanKind.CLIENT, attributes=named)
    headers: dict[str, str] = {}
    propagate.inject(headers, trace.set_span_in_context(span))
    try:
        yield _Recorded(span, headers)
    except Exception as error:
        span.set_status(trace.StatusCode.ERROR, getattr(error, "code", type(error).__name__))
        raise
    finally:
        span.end()
