"""A collector of traces: a real receiver of OTLP over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service import tracing
from tests.workers import receiver
from tests.workers.receiver import Receiver


@contextmanager
def collecting() -> Iterator[Receiver]:
    """A collector that the environment names; tracing ends with the block."""
    with receiver.running() as made, pytest.MonkeyPatch.context() as patch:
        made.answer = lambda _: (200, {})
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{made.port}")
        yield made
        tracing.stop()


def spans(collector: Receiver) -> list[Any]:
    """Send what this process has left and return every span that arrived."""
    tracing.stop()
    assert {one.path for one in collector.received} <= {"/v1/traces"}
    found = []
    for one in collector.received:
        for resource in ExportTraceServiceRequest.FromString(one.body).resource_spans:
            for scope in resource.scope_spans:
                found += scope.spans
    return found


def attributes(of: Any) -> dict[str, Any]:
    """A span's attributes."""
    return {
        one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in of.attributes
    }
