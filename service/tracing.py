"""Traces for an OpenTelemetry collector, if ``OTEL_EXPORTER_OTLP_ENDPOINT`` names one.

Without the variable nothing of OpenTelemetry is imported here, and every function does nothing. The
SDK's other variables (``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER``, ...) have their usual
meaning. Spans are sent by a thread of their own and dropped if the collector does not take them:
nothing waits for it. No attribute identifies a subject or a record.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

log = logging.getLogger("service.tracing")

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

#: How long the end of a process waits for its last spans to be sent.
LAST_SECONDS = 3.0

#: Least time between two lines which say that spans cannot be sent.
QUIET_SECONDS = 60.0

#: Most links of a span; a batch may have thousands of requests.
MAX_LINKS = 100

Kind = Literal["internal", "server"]
Attributes = Mapping[str, str | int | float]

_provider: Any = None
_tracer: Any = None


def start(service: str) -> None:
    """Begin to trace if the environment asks for it; a second call does nothing.

    ``service`` is the service's name in the traces, unless the environment gives another.
    """
    global _provider, _tracer
    if _provider is not None or not any(os.environ.get(name) for name in VARIABLES):
        return
    try:
        _provider = _made(service)
    except ImportError as missing:
        log.warning(
            "no traces: %s is not installed, which OTEL_EXPORTER_OTLP_ENDPOINT needs; install "
            "the extra otel (pip install 'unlearn[otel]')",
            missing.name,
        )
        return
    _tracer = _provider.get_tracer("unlearn")


def _made(service: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    logging.getLogger(OTLPSpanExporter.__module__).addFilter(_Seldom(QUIET_SECONDS))
    resource = Resource.create({"service.name": service}).merge(OTELResourceDetector().detect())
    made = TracerProvider(resource=resource, shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made


def stop() -> None:
    """Send the last spans, for at most ``LAST_SECONDS``, and end tracing."""
    global _provider, _tracer
    made, _provider, _tracer = _provider, None, None
    if made is not None:
        # In a thread, because a collector that does not answer would delay the end.
        last = threading.Thread(target=made.shutdown, daemon=True)
        last.start()
        last.join(LAST_SECONDS)


def is_on() -> bool:
    """Return whether traces are made."""
    return _tracer is not None


class Span:
    """A span under way, or nothing if there are no traces."""

    def __init__(self, made: Any = None) -> None:
        self._made = made

    def rename(self, name: str) -> None:
        """Give the span a name that was not known when it began."""
        if self._made is not None:
            self._made.update_name(name)

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""
        if self._made is not None:
            self._made.set_attributes(attributes)

    def event(self, name: str, attributes: Attributes) -> None:
        """Note that something happened."""
        if self._made is not None:
            self._made.add_event(name, attributes)

    def fail(self, why: str) -> None:
        """Mark what the span stands for as failed."""
        if self._made is not None:
            from opentelemetry.trace import Status, StatusCode

            self._made.set_status(Status(StatusCode.ERROR, why))


#: The span where there are no traces.
NOTHING = Span()


@contextmanager
def span(
    name: str,
    *,
    kind: Kind = "internal",
    parent: str | None = None,
    links: Sequence[str] = (),
    began: int | None = None,
    attributes: Attributes | None = None,
) -> Iterator[Span]:
    """Trace the block as a span; one inside another's block is its child.

    ``parent`` and ``links``: W3C trace contexts. ``began``: ``time.time_ns()`` of the beginning, if
    that was before the block. An exception marks the span as failed, with its class alone: its
    message may quote what a client sent.
    """
    if _tracer is None:
        yield NOTHING
        return
    from opentelemetry import trace

    made = _tracer.start_span(
        name,
        context=None if parent is None else _context(parent),
        kind=trace.SpanKind[kind.upper()],
        attributes=attributes,
        links=[trace.Link(one) for one in map(_span_context, links[:MAX_LINKS]) if one.is_valid],
        start_time=began,
    )
    seen = Span(made)
    with trace.use_span(
        made, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        try:
            yield seen
        except Exception as error:
            seen.fail(type(error).__qualname__)
            raise


def phases(seconds: Mapping[str, float]) -> None:
    """Add a span for each of the steps that have just ended, one after the other."""
    if _tracer is None:
        return
    at = time.time_ns() - round(sum(seconds.values()) * 1e9)
    for name, taken in seconds.items():
        made = _tracer.start_span(name, start_time=at)
        at += round(taken * 1e9)
        made.end(at)


def present() -> Span:
    """Return the innermost span whose block is under way."""
    if _tracer is None:
        return NOTHING
    from opentelemetry import trace

    return Span(trace.get_current_span())


def traceparent() -> str | None:
    """Return the present span as W3C trace context; None without one."""
    if _tracer is None:
        return None
    from opentelemetry import trace

    at = trace.get_current_span().get_span_context()
    if not at.is_valid:
        return None
    return f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}"


def trace_id(traceparent: str | None) -> str | None:
    """Return the id of the trace of a W3C trace context."""
    return None if traceparent is None else traceparent.split("-")[1]


def leading(found: Sequence[str]) -> str | None:
    """Return which of these trace contexts is continued: the first whose trace is recorded."""
    # The last bit of the flags says that it is recorded; others may be set beside it.
    recorded = (one for one in found if int(one.rpartition("-")[2], 16) & 1)
    return next(recorded, found[0] if found else None)


def _context(traceparent: str) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # Into an empty context: a client's header that is no trace context begins a trace of its own.
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())


def _span_context(traceparent: str) -> Any:
    from opentelemetry import trace

    return trace.get_current_span(_context(traceparent)).get_span_context()


class _Seldom(logging.Filter):
    """Lets a line through if the last one was long enough ago: each attempt would write some."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._last = -seconds

    def filter(self, _record: logging.LogRecord) -> bool:
        """Return whether to write the line."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
