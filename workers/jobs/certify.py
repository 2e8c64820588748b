"""Check live heads against their training rows: the digest of their sums, and their weights."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database.tables import Dataset, Model, Version
from service.ledger.registry import internal_state
from service.messages.certify import CERTIFY, Request
from workers.compute.process import ComputeDied, ComputeFailed
from workers.jobs import plans, row_sets
from workers.runtime import Runtime


def run(runtime: Runtime) -> list[dict[str, Any]]:
    """Return for each live head its version, its training rows and what does not agree."""
    with runtime.session() as session:
        models = session.scalars(select(Model.id).order_by(Model.name)).all()
    return [found for model in models if (found := _checked(runtime, model)) is not None]


def _checked(runtime: Runtime, model_id: int) -> dict[str, Any] | None:
    """Return what was found for a model's live version; None if the service solved no head for it.

    A version that is replaced meanwhile loses its statistics and then its forgotten rows, so that
    nothing agrees any more: the version that replaced it is checked instead.
    """
    while True:
        with runtime.session() as session:
            model = session.get_one(Model, model_id)
            version = _live_head(session, model)
            if version is None:
                return None
            live, named = version.id, {"model": model.name, "version": version.number}
            request = _request(runtime, session, model, version)
        found = _compared(runtime, request)
        if not found["faults"] or live == _production(runtime, model_id):
            return named | found


def _live_head(session: Session, model: Model) -> Version | None:
    """Return the live version if its weights were solved from statistics."""
    if model.production_id is None:
        return None
    version = session.get_one(Version, model.production_id)
    return version if "statistics" in version.notes else None


def _production(runtime: Runtime, model_id: int) -> int | None:
    with runtime.session() as session:
        return session.get_one(Model, model_id).production_id


def _request(runtime: Runtime, session: Session, model: Model, version: Version) -> Request | None:
    """Return the request to compare a version; None if its statistics are not registered."""
    kept = internal_state.newest(session, version.id, "statistics")
    if kept is None:
        return None
    return Request(
        data=plans.view(
            session,
            runtime.store,
            session.get_one(Dataset, model.dataset_id),
            rows=version.data_rows,
            excluded=row_sets.excluded_up_to(session, version),
            trained_on=row_sets.trained_on(session, version),
        ),
        model=plans.model(model),
        digest=version.digest,
        statistics=kept.digest,
    )


def _compared(runtime: Runtime, request: Request | None) -> dict[str, Any]:
    if request is None:
        return {"rows": None, "faults": ["no statistics are stored; the next deletion fits anew"]}
    limit = runtime.settings.training_timeout_seconds
    try:
        answer = runtime.compute.call(CERTIFY, request, timeout_seconds=limit)
    except (ComputeFailed, ComputeDied) as failed:
        return {"rows": None, "faults": [failed.detail]}
    return {"rows": answer.rows, "faults": answer.faults}
