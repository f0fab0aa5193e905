"""A collector of traces for measurements and tests: takes OTLP over HTTP, and keeps what came."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class SeenSpan:
    """A span that came. Times in nanoseconds since 1970; ids in hex; ``code`` is what it failed
    with."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    kind: int
    service: str
    attributes: dict[str, Any]
    code: str | None

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


@dataclass
class Trace:
    """The spans of one trace, each with those within it in order of time."""

    spans: list[SeenSpan]
    _within: dict[str, list[SeenSpan]] = field(init=False)

    def __post_init__(self) -> None:
        self._within = {}
        for span in sorted(self.spans, key=lambda each: each.start_ns):
            self._within.setdefault(span.parent_id, []).append(span)

    def within(self, span: SeenSpan, name: str | None = None) -> list[SeenSpan]:
        """The spans just below one, all or those of a name."""
        return [each for each in self._within.get(span.span_id, []) if name in (None, each.name)]

    def one(self, name: str) -> SeenSpan:
        """The only span of that name."""
        (found,) = (each for each in self.spans if each.name == name)
        return found

    def walk(self, span: SeenSpan, depth: int = 0) -> Iterator[tuple[int, SeenSpan]]:
        """A span and all below it, with how deep they are."""
        yield depth, span
        for each in self.within(span):
            yield from self.walk(each, depth + 1)


def covered(span: SeenSpan, parts: Iterable[SeenSpan]) -> float:
    """How much of a span's time its parts add up to, as a ratio."""
    return sum(each.end_ns - each.start_ns for each in parts) / (span.end_ns - span.start_ns)


class Collector:
    """An HTTP server on a free port of this machine, while the context lasts."""

    def __init__(self) -> None:
        self._spans: list[SeenSpan] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """For ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def spans(self) -> list[SeenSpan]:
        """All that have come."""
        return list(self._spans)

    def trace(
        self, trace_id: str, is_whole: Callable[[Trace], bool], limit_s: float = 20.0
    ) -> Trace:
        """Waits for a trace.

        Raises:
            TimeoutError: it is not whole within ``limit_s``.
        """
        deadline = time.monotonic() + limit_s
        while True:
            found = Trace([each for each in self.spans if each.trace_id == trace_id])
            if is_whole(found):
                return found
            if time.monotonic() > deadline:
                names = sorted(each.name for each in found.spans)
                raise TimeoutError(f"trace {trace_id} has {names} after {limit_s:g} s")
            time.sleep(0.1)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        spans = self._spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                spans.extend(_read(ExportTraceServiceRequest.FromString(body)))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                """Not logged."""

        return Handler


def _read(message: Any) -> Iterator[SeenSpan]:
    for resource_spans in message.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield SeenSpan(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    kind=span.kind,
                    service=str(resource.get("service.name", "")),
                    attributes=_attributes(span.attributes),
                    code=span.status.message or "ERROR" if span.status.code == 2 else None,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
        for pair in pairs
    }
