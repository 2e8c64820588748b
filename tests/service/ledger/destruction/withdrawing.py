"""Withdraw what a test made, and look at what is left."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.batches import claims, leases
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables import (
    AuditEvent,
    Batch,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    Version,
)
from service.ledger.destruction import withdrawals
from service.ledger.obligations import completion, raw_rows
from service.ledger.requests import suppressions
from service.ledger.selection import exclusions, naming
from tests import factories
from tests.factories import NOW

WINDOW = timedelta(seconds=100)
POLICY = {"purge_after_seconds": 100, "max_wait_seconds": 0}


def withdraw(session: Session, what: Model | Version | Dataset, **options: object) -> None:
    common = {"actor": "key:k", "now": NOW, **options}
    if isinstance(what, Version):
        owner = session.get_one(Model, what.model_id)
        withdrawals.withdraw_version(session, owner, what, **common)  # type: ignore[arg-type]
    elif isinstance(what, Model):
        withdrawals.withdraw_model(session, what, **common)  # type: ignore[arg-type]
    else:
        withdrawals.withdraw_dataset(session, what, **common)  # type: ignore[arg-type]
    session.flush()
    session.expire_all()


def asked(
    session: Session,
    data: Dataset,
    *owners: Model,
    rows: Sequence[int] = (0,),
    status: RequestStatus = RequestStatus.ACCEPTED,
    share: ErasureStatus = ErasureStatus.PENDING,
) -> DeletionRequest:
    request = factories.request(session, data, rows=rows, status=status, status_reason="x")
    for owner in owners:
        factories.erasure(session, request, owner, status=share, error="x")
    if status == RequestStatus.NEEDS_REVIEW:
        exclusions.exclude(session, data.id, naming.Names.of([request]))
    return request


def shares(session: Session, request: DeletionRequest) -> dict[str, ErasureStatus]:
    found = session.execute(
        select(Model.name, Erasure.status)
        .join(Model, Model.id == Erasure.model_id)
        .where(Erasure.request_id == request.id)
    )
    return dict(found.all())


def excluded(session: Session, data: Dataset) -> set[int]:
    return set(
        session.scalars(
            select(Record.row).where(
                Record.dataset_id == data.id, Record.excluded_revision.is_not(None)
            )
        )
    )


def erase(session: Session, data: Dataset) -> list[str]:
    """What the worker does once it has overwritten the rows."""
    rows = suppressions.about_to_be_erased(session, data)[0]
    raw_rows.mark_erased(session, data, rows, now=NOW, actor="worker:w")
    done = completion.settle(session, now=NOW, actor="worker:w")
    session.expire_all()
    return done


def actions(session: Session) -> list[tuple[str, str]]:
    lines = session.scalars(select(AuditEvent).order_by(AuditEvent.seq))
    return [(line.action, line.subject) for line in lines]


def held(session: Session, key: str) -> leases.Held:
    made = leases.acquire(session, key, owner="w", seconds=60, now=NOW)
    assert made is not None
    return made


def work(session: Session, model: Model) -> tuple[leases.Held, Batch]:
    """A worker with the model's lease and a running batch."""
    lease = held(session, leases.of_model(model.id))
    batch = claims.claim(session, model, held=lease, now=NOW)
    assert batch is not None
    return lease, batch
