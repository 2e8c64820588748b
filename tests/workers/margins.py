"""What a worker keeps and tells of margins, for their tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy import select

from models_store import open_store
from service.ledger.database.tables import Artifact, Lease, Model, Version
from service.ledger.registry import margins as ledger
from service.ledger.reports import verifications
from tests.stored import load
from tests.workers.place import Place
from workers.jobs import spare

ONE_SPLIT = {"splits": 1, "folds": 2}


def compute_all(town: Place) -> Artifact:
    """Train every model that the policy asks for; what is kept then."""
    while spare.run_due(town.runtime):
        pass
    [one] = kept(town)
    return one


def kept(town: Place) -> list[Artifact]:
    """What is there of margins, of every version."""
    with town.runtime.session() as session:
        wanted = select(Artifact).filter_by(kind="margins").where(Artifact.destroyed_at.is_(None))
        return list(session.scalars(wanted.order_by(Artifact.id)))


def files(town: Place) -> list[str]:
    return open_store(town.settings.store).blobs.digests("margins")


def told(town: Place, artifact: Artifact) -> dict[str, np.ndarray]:
    return load(town.settings.store, artifact.digest, kind="margins")


def measured(town: Place) -> dict[str, Any]:
    """What the verification of the live version measured."""
    with town.runtime.session() as session:
        found = verifications.of(session, town.live())
        assert found is not None
        return found.measured


def shown(town: Place) -> dict[str, Any] | None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        live = session.get_one(Version, model.production_id)
        return ledger.describe(session, model, live)


def holds(town: Place, lease: str) -> bool:
    with town.runtime.session() as session:
        found = session.get(Lease, lease)
        return found is not None and found.until > town.runtime.now()
