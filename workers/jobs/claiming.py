"""The claim of a batch: its lease, and everything that its computation needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from service import logs, tracing
from service.ledger.audit import changes
from service.ledger.batches import claims, execution, leases
from service.ledger.database import locks, transactions
from service.ledger.database.tables import Batch, Model
from service.ledger.registry import methods
from service.ledger.registry.policy import Policy
from service.messages.unlearn import Request
from workers.jobs import attempts, plans
from workers.jobs.attempts import Attempt
from workers.runtime import Runtime


@dataclass(frozen=True)
class Claimed:
    """A batch with everything that its computation needs."""

    batch_id: str
    #: For the first of the methods.
    request: Request
    #: Still to be tried, in order.
    methods: list[Attempt]
    policy: Policy
    #: How the dataset must be locked to record what was computed.
    hold: locks.Hold
    #: Tried before: ``[{"choice": …, "refusal": …, "lasting": …}]``.
    tried: list[dict[str, Any]] = field(default_factory=list)
    #: Trace contexts of the requests, oldest first; none if there are no traces.
    traces: list[str] = field(default_factory=list)


@contextmanager
def begun(
    runtime: Runtime, model_id: int, *, trains: bool
) -> Iterator[tuple[leases.Held, Claimed] | None]:
    """Claim the model's next due batch and hold the lease for the block; None if there is none."""
    found = _begin(runtime, model_id, trains=trains)
    if found is None:
        yield None
        return
    with runtime.giving_back(found[0]):
        yield found


@transactions.repeated
def _begin(runtime: Runtime, model_id: int, *, trains: bool) -> tuple[leases.Held, Claimed] | None:
    """Take the model's lease and claim in one transaction; on None the lease stays free."""
    with runtime.session() as session:
        held = runtime.acquire(session, leases.of_model(model_id))
        if held is None:
            return None
        claimed = _claim(session, runtime, model_id, held, trains=trains)
        if claimed is None:
            leases.release(session, held, now=runtime.now())
            return None
        return held, claimed


def _claim(
    session: Session, runtime: Runtime, model_id: int, held: leases.Held, *, trains: bool
) -> Claimed | None:
    model = session.get_one(Model, model_id)
    batch = claims.claim(session, model, held=held, now=runtime.now(), trains=trains)
    if batch is None:
        return None
    policy = Policy.model_validate(model.policy)
    if batch.attempts > runtime.retry.max_attempts:
        # The workers that ran it died repeatedly, which counts as a failure of the batch.
        execution.fail(
            session,
            batch,
            held=held,
            error="the worker died each time it ran this batch",
            retry=runtime.retry,
            now=runtime.now(),
        )
        return None
    known = methods.announced(session)
    chosen = attempts.choices(known, batch, policy)
    request = plans.for_batch(session, runtime.store, batch, chosen[0], knows=runtime.compute.knows)
    before = [entry["choice"] for entry in batch.tried]
    left = [choice for choice in chosen if choice.model_dump() not in before]
    return Claimed(
        batch_id=batch.id,
        request=request,
        methods=attempts.of(known, request, left),
        tried=batch.tried,
        policy=policy,
        # For a first promotion in the mode that ``versions.lock`` needs: no lock is strengthened.
        hold=locks.Hold.PUBLICATION if model.production_id is None else locks.Hold.INTAKE,
        traces=_traces(session, batch),
    )


def _traces(session: Session, batch: Batch) -> list[str]:
    """Read the traces that the batch belongs to; its own lines belong to the oldest, too."""
    if not tracing.is_on():
        return []
    found = execution.traces(session, batch, limit=tracing.MAX_LINKS)
    origin = logs.Origin(traceparent=tracing.leading(found))
    changes.came_from(session, f"batch:{batch.id}", origin)
    return found
