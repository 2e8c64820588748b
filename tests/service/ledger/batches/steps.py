"""The steps of a batch, as a worker takes them."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from service.ledger.batches import claims, execution, leases
from service.ledger.database.tables import (
    Batch,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Version,
)
from service.ledger.registry import versions
from tests import factories
from tests.factories import NOW

LATER = NOW + timedelta(seconds=60)


RETRY = execution.Retry(max_attempts=3, backoff_seconds=2.0)


def ask(session: Session, data: Dataset, *models: Model, rows=(0,), at=NOW) -> DeletionRequest:
    request = factories.request(session, data, rows=rows)
    for one in models:
        factories.erasure(session, request, one, created_at=at)
    return request


def lease(session: Session, model: Model, *, owner="w1", now=LATER, seconds=30.0) -> leases.Held:
    held = leases.acquire(session, leases.of_model(model.id), owner=owner, seconds=seconds, now=now)
    assert held is not None
    return held


def claim(session: Session, model: Model, *, owner="w1", now=LATER):
    """Take the lease and the next batch."""
    held = lease(session, model, owner=owner, now=now)
    return held, claims.claim(session, model, held=held, now=now)


def unlearn(
    session: Session,
    model: Model,
    held: leases.Held,
    batch: Batch,
    *,
    retrained: bool = False,
    now=LATER,
):
    """What the pipeline does when the computation has come back."""
    base = session.get_one(Version, batch.base_version_id)
    revision = session.get_one(Dataset, model.dataset_id).revision
    version = versions.register(
        session,
        model,
        origin="retrained" if retrained else "unlearned",
        digest="d" * 64,
        size_bytes=1,
        data_revision=revision if retrained else base.data_revision,
        seed=1,
        code_version="0",
        parent=base,
        anchor_id=None if retrained else base.anchor_id,
        batch_id=batch.id,
        now=now,
        actor="worker:w",
    )
    execution.complete(session, batch, version, held=held, now=now)
    versions.promote(
        session,
        model,
        version,
        expected_production=model.production_id,
        reason="unlearned",
        actor="worker:w",
        now=now,
    )
    return version


def status(session: Session, request: DeletionRequest) -> tuple[str, list[str]]:
    session.expire_all()
    shares = session.query(Erasure).filter_by(request_id=request.id).order_by(Erasure.id)
    return session.get_one(DeletionRequest, request.id).status, [one.status for one in shares]
