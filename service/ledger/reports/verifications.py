"""Verifications: what was measured of a version, stored once."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database.tables import Model, Record, Verification, Version
from service.ledger.registry import lineage, versions
from service.ledger.reports.disclosure import LEAST_ROWS

#: The sets that figures are given of, by the split that their rows are drawn from.
SETS = ("retain", "calibration", "audit")


def store(
    session: Session,
    model: Model,
    version: Version,
    *,
    measured: dict[str, Any],
    data_revision: int,
    actor: str,
    now: datetime,
) -> Verification:
    """Store what was measured on the rows not excluded at ``data_revision``, with its verdict."""
    made = Verification(
        version_id=version.id,
        verdict=measured["verdict"],
        measured=measured,
        set_changes=_set_changes(session, model, version, data_revision),
        created_at=now,
    )
    session.add(made)
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.VERSION_VERIFIED,
        subject=versions.subject(model, version),
        data={"verdict": made.verdict},
    )
    return made


def of(session: Session, version: Version) -> Verification | None:
    """Return the version's verification, or None if it has none yet."""
    return session.scalar(select(Verification).where(Verification.version_id == version.id))


def _set_changes(
    session: Session, model: Model, version: Version, data_revision: int
) -> dict[str, Any]:
    """Count the rows that left each set since its figures were last shown.

    Two tables over sets that differ by a few rows give, subtracted, the figures of these rows. So
    a table is shown only if its set is the one last shown or lacks at least ``LEAST_ROWS`` of it.
    """
    latest = _latest(session, model)
    if latest is None:
        return {"revision": data_revision, "rows": dict.fromkeys(SETS, 0)}
    known, other_list = latest
    if known is None:
        return {"revision": data_revision, "rows": dict.fromkeys(SETS, 1)}
    if data_revision < known["revision"]:
        # Measured on rows of the past, which may be few more than those shown last.
        return {
            "revision": known["revision"],
            "rows": {name: max(rows, 1) for name, rows in known["rows"].items()},
        }
    mine = version.record_list_id
    left = _excluded_between(session, model.dataset_id, known["revision"], data_revision, mine)
    moved = _between_lists(session, model.dataset_id, other_list, mine)
    rows = {name: known["rows"][name] + left[name] + moved[name] for name in SETS}
    return {
        "revision": data_revision,
        "rows": {name: 0 if count >= LEAST_ROWS else count for name, count in rows.items()},
    }


def _latest(session: Session, model: Model) -> tuple[dict[str, Any] | None, str | None] | None:
    """Return ``set_changes`` of the newest verification, and the record list of its version."""
    found = session.execute(
        select(Verification.set_changes, Version.record_list_id)
        .join(Version, Version.id == Verification.version_id)
        .where(Version.model_id == model.id)
        .order_by(Version.number.desc())
        .limit(1)
    ).one_or_none()
    return None if found is None else (found[0], found[1])


def _excluded_between(
    session: Session, dataset_id: int, after: int, until: int, record_list_id: str | None
) -> dict[str, int]:
    """Count the rows that left each set: training rows of any split, the others by split."""
    trained = func.count().filter(lineage.of_training(record_list_id))
    rows = session.execute(
        select(Record.split, func.count(), trained)
        .where(
            Record.dataset_id == dataset_id,
            Record.excluded_revision > after,
            Record.excluded_revision <= until,
        )
        .group_by(Record.split)
    )
    counts = dict.fromkeys(SETS, 0)
    for split, all_of_it, of_training in rows:
        counts[SETS[0]] += of_training
        if split != lineage.TRAIN_SPLIT:
            counts[SETS[split]] += all_of_it - of_training
    return counts


def _between_lists(
    session: Session, dataset_id: int, one: str | None, other: str | None
) -> dict[str, int]:
    """Count the rows by which the sets of two versions differ, trained on other records."""
    if one == other:
        return dict.fromkeys(SETS, 0)
    a, b = lineage.of_training(one), lineage.of_training(other)
    counts = _by_split(
        session, and_(Record.dataset_id == dataset_id, or_(and_(a, ~b), and_(b, ~a)))
    )
    counts[0] = sum(counts.values())
    return {name: counts.get(split, 0) for split, name in enumerate(SETS)}


def _by_split(session: Session, which: ColumnElement[bool]) -> dict[int, int]:
    rows = session.execute(select(Record.split, func.count()).where(which).group_by(Record.split))
    return dict(rows.all())
