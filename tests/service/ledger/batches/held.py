"""A model whose batch is held, and what changes a hold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from service.ledger.batches import holds, leases, next_batch
from service.ledger.database.states import ErasureStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import Batch, DeletionRequest, Model, Record, Version
from service.ledger.registry.policy import Policy
from tests import factories
from tests.factories import NOW
from tests.service import announcements

WHO: dict[str, Any] = {"actor": "key:k", "now": NOW}


@dataclass
class Case:
    """A model whose batch on version 1 forgets row 0 and is held with version 2."""

    model: Model
    base: Version
    version: Version
    batch: Batch
    request: DeletionRequest
    held: leases.Held


def hold(session: Session, *, mark: str) -> Case:
    data = factories.dataset(session, rows=10, revision=1)
    session.get_one(Record, (data.id, 0)).excluded_revision = 1
    policy = Policy(max_wait_seconds=0, max_records=4).model_dump(mode="json")
    model = factories.model(session, data, name="own", policy=policy)
    base = factories.version(session, model)
    asked = factories.request(session, data, rows=[0], status=RequestStatus.PROCESSING)
    held = lease(session, model)
    batch = factories.batch(session, model, base, rows=[0], fence=held.fence)
    factories.erasure(session, asked, model, status=ErasureStatus.CLAIMED, batch_id=batch.id)
    exact = mark == holds.ACCURACY
    version = factories.version(
        session,
        model,
        production=False,
        origin="retrained" if exact else "unlearned",
        status=VersionStatus.CANDIDATE,
        data_revision=1 if exact else base.data_revision,
        batch_id=batch.id,
        published_at=None,
        **({} if exact else {"parent_id": base.id, "anchor_id": base.id}),
    )
    until = holds.until(session, batch, Policy.model_validate(model.policy), mark=mark)
    assert until == asked.due_at - timedelta(days=3)
    holds.hold(session, model, batch, version, until=until, held=held, mark=mark)
    session.commit()
    return Case(model, base, version, batch, asked, held)


def lease(session: Session, model: Model) -> leases.Held:
    held = leases.acquire(session, leases.of_model(model.id), owner="w", seconds=3600, now=NOW)
    assert held is not None
    return held


def change_policy(session: Session, case: Case, **changes: object) -> None:
    announcements.announce(session)
    next_batch.change_policy(session, case.model, changes, actor="key:k", now=NOW)
    session.commit()
