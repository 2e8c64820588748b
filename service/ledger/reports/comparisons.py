"""The comparison of an approximate version with the exact one trained after it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database.tables import Model, Verification, Version
from service.ledger.registry import versions
from service.ledger.reports import disclosure, shown_sets
from service.ledger.reports.shown_sets import Sample

#: Key of the comparison among a version's notes.
NOTE = "comparison"


def store(
    session: Session,
    model: Model,
    version: Version,
    *,
    measured: dict[str, Any],
    verification: Verification,
    actor: str,
) -> None:
    """Store the comparison of the exact ``version`` with the version that was live before.

    ``verification`` is the exact version's: both were measured on its rows, but for rows that the
    other one was trained on and that are of the exact version's other sets. The caller has called
    ``shown_sets.hold`` for the model's dataset.
    """
    live = session.scalars(
        select(Version).where(
            Version.model_id == model.id, Version.number == measured["approximate"]["version"]
        )
    ).one()
    changes = verification.set_changes
    if changes is not None and live.record_list_id != version.record_list_id:
        rows = _shown(session, model, version, live, verification, changes["revision"])
        changes = changes | {"rows": changes["rows"] | rows}
    exact = {"version": version.number, "digest": version.digest}
    found = {"exact": exact, **measured, "set_changes": changes}
    version.notes = version.notes | {NOTE: found}
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.VERSION_COMPARED,
        subject=versions.subject(model, version),
        data={"with": measured["approximate"]},
    )


def _shown(
    session: Session,
    model: Model,
    version: Version,
    live: Version,
    verification: Verification,
    revision: int,
) -> dict[str, int]:
    """Return by how few rows the compared never-seen and validation rows differ from shown ones.

    They are those of ``version`` without the list of ``live``, which may be older than an append.
    Retained rows are those of ``version``.
    """
    samples = shown_sets.samples_of(verification.measured)
    others = {name: Sample(of.below) for name, of in samples.items() if name != "retain"}
    return shown_sets.show(
        session, model.dataset_id, live.record_list_id, version.data_rows, revision, others
    )


def of(session: Session, version: Version) -> dict[str, Any] | None:
    """Return a version's comparison; for an approximate one, that of the first exact version after.

    The exact one was compared with whichever version of the chain was live then. Figures of sets
    that a few rows left shortly before are withheld.
    """
    found = _stored(session, version)
    return None if found is None else disclosure.comparison(found)


def _stored(session: Session, version: Version) -> dict[str, Any] | None:
    own: dict[str, Any] | None = version.notes.get(NOTE)
    if own is not None or version.id == version.anchor_id:
        return own
    chained = set(
        session.scalars(select(Version.number).where(Version.anchor_id == version.anchor_id))
    )
    later = session.scalars(
        select(Version)
        .where(
            Version.model_id == version.model_id,
            Version.number > version.number,
            Version.training_run_id.is_not(None),
        )
        .order_by(Version.number)
    )
    found = (other.notes.get(NOTE) for other in later)
    return next((one for one in found if one and one["approximate"]["version"] in chained), None)
