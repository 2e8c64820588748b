"""Numbers for a monitoring system."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from service.api import auth, bodies, deps, metrics
from service.ledger.reports import operations

router = bodies.router(tag="operations")

Watcher = Annotated[auth.Principal, auth.require("metrics:read")]


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "the numbers"}},
    summary="Numbers for Prometheus",
)
def show(
    request: Request, watcher: Watcher, session: deps.Reader, settings: deps.Settings
) -> Response:
    """Return the ledger's numbers as of now, and this process's counts of HTTP requests and lines.

    In OpenMetrics if the client accepts it, else in Prometheus's text format. Counts, ages and
    sizes only: no label names a client, a request, a record or a subject.
    """
    seen = operations.look(session, beat_seconds=settings.heartbeat_seconds)
    ledger = CollectorRegistry()
    ledger.register(metrics.Ledger(seen))
    counted: metrics.Requests = request.app.state.http_requests
    lines: metrics.Lines = request.app.state.audit_lines
    lines.count(lambda after: operations.new_lines(session, after=after))
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    parts = [encode(ledger), encode(counted.registry), encode(lines.registry)]
    # Each ends with "# EOF" in OpenMetrics, which may only stand at the end of all.
    text = b"".join(part.removesuffix(b"# EOF\n") for part in parts)
    return Response(text + (b"# EOF\n" if parts[0].endswith(b"# EOF\n") else b""), media_type=kind)
