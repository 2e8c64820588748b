"""Scores of single records: stored apart from a verification, deleted with the raw rows."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database.tables import Record, RecordScore, Version
from service.ledger.reports import record_scores, verifications
from tests import factories

METRIC = "calibrated_excess_auc"


def measured(*rows: int) -> dict[str, object]:
    listed = [{"row": row, "score": row / 10, "excess": None} for row in rows]
    metric = {"value": 0.6, "per_record": listed, "worst_records": listed[:1]}
    return {"verdict": "no_power", "metrics": {METRIC: metric, "other": {"value": 1.0}}}


@pytest.fixture
def version(session: Session) -> Version:
    data = factories.dataset(session, rows=12)
    model = factories.model(session, data)
    session.get_one(Record, (data.id, 4)).erased_at = factories.NOW
    made = factories.version(session, model)
    verifications.store(
        session,
        model,
        made,
        # Row 7 is of an earlier batch of the pool.
        measured=measured(2, 3, 4, 7),
        data_revision=0,
        actor="worker:w",
        now=factories.NOW,
        forgotten=[2, 3, 4],
    )
    session.flush()
    return made


def _dataset(session: Session, version: Version) -> int:
    return session.scalars(select(Record.dataset_id)).first() or 0


def _page(session: Session, version: Version, *, limit: int = 10, after: int = 0) -> list[str]:
    found = record_scores.page(
        session, _dataset(session, version), version, limit=limit, after=after
    )
    return [record_id for record_id, _ in found]


def test_scores_of_the_batch_whose_raw_rows_stand_are_stored_apart(
    session: Session, version: Version
) -> None:
    found = record_scores.page(session, _dataset(session, version), version, limit=10, after=0)
    assert found == [
        ("r2", {METRIC: {"score": 0.2, "excess": None}}),
        ("r3", {METRIC: {"score": 0.3, "excess": None}}),
    ]
    assert _page(session, version, limit=1, after=1) == ["r3"]
    stored = verifications.of(session, version)
    assert stored is not None
    assert stored.measured["metrics"] == {METRIC: {"value": 0.6}, "other": {"value": 1.0}}


def test_scores_go_with_their_rows_or_with_the_dataset(session: Session, version: Version) -> None:
    data_id = _dataset(session, version)
    record_scores.forget(session, data_id, [2, 5])
    assert _page(session, version) == ["r3"]
    record_scores.forget(session, data_id + 1)
    assert _page(session, version) == ["r3"]
    record_scores.forget(session, data_id)
    assert session.scalars(select(RecordScore)).all() == []
