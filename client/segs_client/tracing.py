"""OpenTelemetry in the client: a span for each request, and headers that link the server's spans to
it.

Without the package ``opentelemetry-api``, or if the program does not set up OpenTelemetry, nothing
is recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class RequestSpan:
    """The span of a request; this base records nothing."""

    def headers(self) -> dict[str, str]:
        """gRPC metadata of the request."""
        return {}

    def note(self, **values: str | int | float) -> None:
        """Sets attributes named ``segs.…``."""


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
    """A span inside the current one, for the time of the block. It does not become the current
    span: the program's work between a stream's updates does not belong to it."""
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
