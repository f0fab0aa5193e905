"""OpenTelemetry: a request's spans in one trace through all processes.

Enabled if OpenTelemetry's variables name a collector: ``OTEL_EXPORTER_OTLP_ENDPOINT``, for example
``http://127.0.0.1:4318``. The others (``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER``, …) also
apply. If it is not enabled, nothing of OpenTelemetry is imported and no span is recorded.

A trace continues the caller's by the W3C headers, which Triton passes to the models as parameters
of the request; calls between models pass them the same way.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from segs_client.contract import TRACE_HEADERS, ContractError
from triton_models.errors import TracingError
from triton_models.internal_token import read_parameters

DEFAULT_SERVICE = "segs-detailer"
Attributes = Mapping[str, str | int | float | None]
_EXPORTERS = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
_DEFAULTS = {
    "OTEL_SERVICE_NAME": DEFAULT_SERVICE,
    # A request of many SEGs and steps has thousands of spans at once; the SDK's default is 2,048.
    "OTEL_BSP_MAX_QUEUE_SIZE": "16384",
    "OTEL_BSP_SCHEDULE_DELAY": "1000",
}
_FLUSH_S = 1.0
"""Time-out of sending the last spans of a process."""


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether traces are enabled by OpenTelemetry's variables."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return False
    return any(environment.get(f"OTEL_EXPORTER_OTLP_{each}ENDPOINT") for each in ("", "TRACES_"))


def check_tracing(environment: Mapping[str, str]) -> None:
    """
    Raises:
        TracingError: traces are enabled, but the packages that send them are missing.
    """
    if not is_wanted(environment):
        return
    protocol = _protocol(environment)
    if protocol not in _EXPORTERS:
        known = " or ".join(_EXPORTERS)
        raise TracingError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: traces go by {known}")
    package = f"opentelemetry-exporter-otlp-proto-{protocol.partition('/')[0]}"
    with contextlib.suppress(ModuleNotFoundError):  # a parent package is missing
        if find_spec("opentelemetry.sdk") and find_spec(_EXPORTERS[protocol]):
            return
    raise TracingError(
        f"OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, which takes the packages opentelemetry-sdk "
        f"and {package}"
    )


def tracing_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Further environment variables of the Python models."""
    if not is_wanted(environment):
        return {}
    return {name: value for name, value in _DEFAULTS.items() if name not in environment}


def _protocol(environment: Mapping[str, str]) -> str:
    general = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    return environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", general)


class Span:
    """A span; this base records nothing."""

    trace_id: str | None = None
    """32 hex digits; None if the span is not recorded."""

    def parameters(self) -> dict[str, str]:
        """Parameters of requests to models, to make their spans children of this one."""
        return {}

    def note(self, **values: str | int | float | None) -> None:
        """Sets attributes named ``segs.…``; None is skipped."""

    def fail(self, error: BaseException | str) -> None:
        """Marks the span as failed with an error's class or a code."""


class _RecordedSpan(Span):
    """An OpenTelemetry span, perhaps not sampled."""

    def __init__(self, span: Any, propagator: Any, context: Any) -> None:
        self.span = span
        self.context = context
        """The context with this span, for its children."""
        self._propagator = propagator
        if span.is_recording():
            self.trace_id = f"{span.get_span_context().trace_id:032x}"

    def parameters(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self.context)
        return carrier

    def note(self, **values: str | int | float | None) -> None:
        self.span.set_attributes(attributes(values))

    def fail(self, error: BaseException | str) -> None:
        from opentelemetry.trace import StatusCode

        self.span.set_status(StatusCode.ERROR, error if isinstance(error, str) else _kind(error))


def attributes(values: Attributes) -> dict[str, Any]:
    """Attributes with a span's names: ``batch_rows`` is ``segs.batch_rows``."""
    return {f"segs.{name}": value for name, value in values.items() if value is not None}


def _kind(error: BaseException) -> str:
    return error.detail.code if isinstance(error, ContractError) else type(error).__name__


class Tracing:
    """One process's spans; nothing is recorded if ``provider``, OpenTelemetry's, is None."""

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        if provider is not None:
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            self._tracer = provider.get_tracer("segs_detailer")
            self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def of_environment(cls) -> Tracing:
        """By the environment; to be called once in a process."""
        if not is_wanted(os.environ):
            return cls()
        from importlib import import_module

        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(shutdown_on_exit=False)
        exporter = import_module(_EXPORTERS[_protocol(os.environ)]).OTLPSpanExporter()
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider)

    @contextlib.contextmanager
    def span(
        self, name: str, request: Any, *, is_front_end: bool = False, start_ns: int | None = None
    ) -> Iterator[Span]:
        """A span for the time of the block, as a child of the one in a request's parameters.

        Args:
            request: Triton's.
            is_front_end: whether the request is a client's.
            start_ns: since 1970; None: now.
        """
        if self._provider is None:
            yield Span()
            return
        from opentelemetry.trace import SpanKind, set_span_in_context

        named = read_parameters(request.parameters())
        carrier = {key: value for key in TRACE_HEADERS if isinstance(value := named.get(key), str)}
        parent = self._propagator.extract(carrier)
        kind = SpanKind.SERVER if is_front_end else SpanKind.INTERNAL
        span = self._tracer.start_span(name, parent, kind, start_time=start_ns)
        try:
            yield _RecordedSpan(span, self._propagator, set_span_in_context(span, parent))
        finally:
            span.end()

    def add(
        self,
        within: Span,
        name: str,
        start_ns: int,
        end_ns: int,
        values: Attributes,
        *,
        failed: str | None = None,
    ) -> Span:
        """Adds an ended span, as a child of another one of this process.

        Args:
            start_ns, end_ns: since 1970.
            failed: the code of its error, if any.
        """
        if not isinstance(within, _RecordedSpan) or within.trace_id is None:
            return Span()
        from opentelemetry.trace import set_span_in_context

        span = self._tracer.start_span(
            name, within.context, attributes=attributes(values), start_time=start_ns
        )
        added = _RecordedSpan(span, self._propagator, set_span_in_context(span, within.context))
        if failed is not None:
            added.fail(failed)
        span.end(end_ns)
        return added

    def close(self) -> None:
        """Sends the remaining spans, within a second."""
        if self._provider is not None:
            ending = threading.Thread(target=self._provider.shutdown, daemon=True)
            ending.start()
            ending.join(_FLUSH_S)
