"""Check live heads against their training rows: the digest of their sums, and their weights."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database.tables import Artifact, Dataset, Model, Version
from service.messages.certify import CERTIFY, Request
from workers.compute.process import ComputeFailed
from workers.jobs import plans
from workers.runtime import Runtime


def run(runtime: Runtime) -> list[dict[str, Any]]:
    """Return for each live version with statistics its training rows and what does not agree."""
    with runtime.session() as session:
        wanted = [
            (model.name, version.number, _request(runtime, session, model, version, kept))
            for model, version, kept in session.execute(
                select(Model, Version, Artifact)
                .join(Version, Version.id == Model.production_id)
                .join(Artifact, Artifact.version_id == Version.id)
                .where(Artifact.kind == "statistics", Artifact.destroyed_at.is_(None))
                .order_by(Model.name)
            )
        ]
    return [
        {"model": model, "version": number, **_compared(runtime, request)}
        for model, number, request in wanted
    ]


def _request(
    runtime: Runtime, session: Session, model: Model, version: Version, kept: Artifact
) -> Request:
    return Request(
        data=plans.view(
            runtime.store,
            session.get_one(Dataset, model.dataset_id),
            excluded=plans.excluded_up_to(session, version),
            trained_on=plans.trained_on(session, version),
        ),
        model=plans.model(model),
        digest=version.digest,
        statistics=kept.digest,
    )


def _compared(runtime: Runtime, request: Request) -> dict[str, Any]:
    limit = runtime.settings.training_timeout_seconds
    try:
        answer = runtime.compute.call(CERTIFY, request, timeout_seconds=limit)
    except ComputeFailed as failed:
        return {"rows": None, "faults": [failed.detail]}
    return {"rows": answer.rows, "faults": answer.faults}
