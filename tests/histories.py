"""A small history of a model: the rows and audit lines that the service would write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from service.ledger.audit import chain, signing
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import (
    Batch,
    BatchRecord,
    Dataset,
    DeletionRequest,
    Model,
    Record,
    Version,
)
from service.ledger.registry import lineage, versions
from tests import factories
from tests.factories import NOW

SIGNER = signing.Signer.from_seed(bytes(range(32)))

GATES = [
    {"gate": "changed", "concern": "integrity", "outcome": "passed", "reason": "they differ"},
    {"gate": "membership_auc", "concern": "removal", "outcome": "passed", "reason": "within"},
]
MEASURED = {
    "verdict": "passed",
    "gates": GATES,
    "metrics": {
        "membership_auc": {
            "value": 0.51,
            "interval": [0.47, 0.55],
            "control": {"value": 0.7, "interval": [0.66, 0.74]},
            "worst_records": [{"row": 3, "score": 0.99}],
        }
    },
}


@dataclass
class History:
    """A model with an anchor and one unlearned version, as the ledger tells it."""

    data: Dataset
    model: Model
    anchor: Version
    version: Version
    asked: list[DeletionRequest]


def forgotten(session: Session) -> History:
    """A trained anchor, and a version that forgot two rows of it for two requests."""
    data = factories.dataset(
        session, subjects=["ada@example.org", *[None] * 11], splits=[0] * 10 + [1, 2]
    )
    owner = factories.model(session, data)
    run = factories.training_run(session, owner)
    anchor = factories.version(session, owner, training_run_id=run.id)
    asked = [
        factories.request(session, data, rows=[0, 1]),
        factories.request(session, data, rows=[1, 10], kind="subject"),
    ]
    version = factories.unlearned(session, owner, anchor, asked)
    # Row 10 is validation data: no training row of the base, so not in the batch.
    _leave_out(session, version, row=10)
    for row in (0, 1, 10):
        record = session.get_one(Record, (data.id, row))
        record.excluded_revision, record.erased_at = 1, NOW
    anchor.status, anchor.retired_at = VersionStatus.RETIRED, NOW
    factories.artifact(session, anchor, kind="caches")
    factories.artifact(session, version, kind="scores")
    factories.artifact(session, version, kind="caches")
    factories.verification(session, version, measured=MEASURED)
    lines(session, owner, anchor, data={"training_run": run.id}, verdict="exact")
    lines(session, owner, version, data={}, verdict="passed")
    say(session, "version:retired", versions.subject(owner, anchor), {})
    batch_lines(session, version)
    for item in asked:
        request_lines(session, item)
    session.commit()
    return History(data, owner, anchor, version, asked)


def _leave_out(session: Session, version: Version, *, row: int) -> None:
    batch = session.get_one(Batch, version.batch_id)
    session.query(BatchRecord).filter_by(batch_id=batch.id, row=row).delete()
    batch.records -= 1
    lineage.place(
        session,
        session.get_one(Model, version.model_id),
        version,
        session.get_one(Version, version.parent_id),
    )


def lines(
    session: Session, owner: Model, version: Version, *, data: dict[str, Any], verdict: str | None
) -> None:
    """The audit lines of a version's registration, verification and promotion."""
    subject = versions.subject(owner, version)
    say(session, "version:registered", subject, {"digest": version.digest})
    if verdict not in (None, "exact"):
        say(session, "version:verified", subject, {"verdict": verdict})
    say(session, "version:promoted", subject, {"digest": version.digest})
    if data:
        say(session, "training_run:completed", f"model:{owner.name}", data)


def batch_lines(session: Session, version: Version) -> None:
    """The audit lines of the batch that made the version."""
    say(session, "batch:claimed", f"batch:{version.batch_id}", {})
    say(session, "batch:completed", f"batch:{version.batch_id}", {})


def request_lines(session: Session, asked: DeletionRequest) -> None:
    """The audit lines of a completed request."""
    subject = f"deletion_request:{asked.id}"
    say(session, "deletion_request:accepted", subject, {"matched": asked.matched})
    say(session, "deletion_request:completed", subject, {})


def say(session: Session, action: str, subject: str, data: dict[str, Any]) -> None:
    """One audit line."""
    chain.append(session, actor="worker:w", action=chain.Action(action), subject=subject, data=data)
