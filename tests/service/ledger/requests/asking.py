"""Recording deletion requests as the API does, for the tests in this folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import ServiceError
from service.ledger.audit import chain
from service.ledger.database.tables import (
    AuditEvent,
    Dataset,
    DeletionRequest,
    Model,
    Record,
)
from service.ledger.requests import intake, lookup, page
from service.ledger.selection.matching import Ask
from tests import factories
from tests.factories import NOW


def recorded(session: Session, *asks: Ask, **options: Any) -> list[DeletionRequest]:
    submissions = [page.Submission(ask, "key_test") for ask in asks]
    outcomes = intake.record_many(
        session, submissions, digester=factories.DIGESTER, now=NOW, **options
    )
    made = []
    for outcome in outcomes:
        assert isinstance(outcome, page.Receipt), outcome
        made.append(lookup.get(session, outcome.answer["id"]))
    return made


def refused_with(session: Session, ask: Ask, **options: Any) -> ServiceError:
    [outcome] = intake.record_many(
        session,
        [page.Submission(ask, "key_test")],
        digester=factories.DIGESTER,
        now=NOW,
        **options,
    )
    assert isinstance(outcome, ServiceError)
    assert session.scalars(select(DeletionRequest)).all() == []
    return outcome


def published_model(session: Session, data: Dataset, **columns: Any) -> Model:
    model = factories.model(session, data, **columns)
    factories.version(session, model)
    return model


def of_records(data: Dataset, *names: str) -> Ask:
    return Ask(data.name, "records", record_ids=names)


def erase_rows(session: Session, data: Dataset, rows: Sequence[int]) -> None:
    for row in rows:
        record = session.get_one(Record, (data.id, row))
        record.excluded_revision, record.erased_at = 1, NOW
    session.flush()


def actions_of(session: Session, request: DeletionRequest) -> list[str]:
    lines = select(AuditEvent.action).where(AuditEvent.subject == f"deletion_request:{request.id}")
    chain.write(session)
    return list(session.scalars(lines.order_by(AuditEvent.seq)))


def awaiting_approval(session: Session) -> DeletionRequest:
    data = factories.dataset(session)
    published_model(session, data, policy={"approval": {"max_records_per_request": 0}})
    [request] = recorded(session, of_records(data, "r0"))
    return request
