"""A batch as operators see it: its trace, its log lines' names, and the seconds of its phases."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from service import logs, tracing
from service.ledger.registry import counts
from service.messages.unlearn import Answer
from workers.jobs.claiming import Claimed
from workers.runtime import Runtime


@contextmanager
def batch(runtime: Runtime, claimed: Claimed, *, began: float) -> Iterator[None]:
    """Trace the block as this worker's run of the batch, whose claim began at ``began``.

    ``began`` is in seconds of ``time.monotonic``. The run continues the trace of the oldest request
    and has links to those of the others.
    """
    seconds = time.monotonic() - began
    runtime.counter.observe(counts.PHASES, "claim", seconds=seconds)
    with (
        logs.about(batch=claimed.batch_id),
        tracing.span(
            "batch",
            parent=tracing.leading(claimed.traces),
            links=claimed.traces,
            began=time.time_ns() - round(seconds * 1e9),
            attributes={
                "unlearn.batch": claimed.batch_id,
                "unlearn.kind": claimed.request.kind,
                "unlearn.rows": len(claimed.request.forget),
            },
        ),
    ):
        tracing.phases({"claim": seconds})
        yield


@contextmanager
def phase(runtime: Runtime, name: str) -> Iterator[None]:
    """Trace and time the block as a phase of the batch."""
    began = time.monotonic()
    with tracing.span(name):
        yield
    runtime.counter.observe(counts.PHASES, name, seconds=time.monotonic() - began)


def computed(runtime: Runtime, method: str, answer: Answer) -> None:
    """Count the seconds of the phases that the compute process has told."""
    tracing.present().event("computed", {"unlearn.method": method})
    for name, seconds in answer.timings.items():
        runtime.counter.observe(counts.PHASES, name, seconds=seconds)


def ended(runtime: Runtime, outcome: str) -> None:
    """Count how this run of the batch ended."""
    runtime.counter.add(counts.BATCHES, outcome)
    span = tracing.present()
    span.set({"unlearn.outcome": outcome})
    if outcome in ("failed", "interrupted"):
        span.fail(outcome)
