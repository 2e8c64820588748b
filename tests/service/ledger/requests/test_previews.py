"""Previews: what a request would meet, and nothing recorded."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import NotFound
from service.ledger.audit import chain
from service.ledger.database.tables import (
    AuditEvent,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    RequestRecord,
)
from service.ledger.requests import intake, previews
from service.ledger.selection.matching import Ask, NoSubjectIds
from tests import factories
from tests.factories import DIGESTER, NOW


def _data(session: Session, **columns: Any) -> Dataset:
    return factories.dataset(
        session,
        rows=6,
        subjects=["ann", "ann", "ann", "ann", "ben", "ben"],
        splits=[0, 0, 1, 2, 0, 0],
        **columns,
    )


def _model(session: Session, data: Dataset, **columns: Any) -> Model:
    model = factories.model(session, data, **columns)
    factories.version(session, model)
    return model


def _preview(session: Session, ask: Ask) -> dict[str, Any]:
    return previews.preview(session, ask, principal="key_crm", digester=DIGESTER, now=NOW)


def test_a_preview_counts_by_dataset_split_and_live_version(session: Session) -> None:
    one, other = _data(session, name="one"), _data(session, name="other")
    model = _model(session, one, name="who")
    base = factories.version(session, model)
    forgot_row_0 = factories.request(session, one, rows=[0])
    factories.unlearned(session, model, base, [forgot_row_0])
    session.get_one(Record, (one.id, 0)).excluded_revision = 1
    seen = _preview(session, Ask(None, "subject", subject_id="ann"))
    assert (seen["status"], seen["matched"], seen["complete_match"]) == ("accepted", 8, True)
    assert seen["datasets"] == [
        {
            "dataset": "one",
            "matched": 4,
            "already_forgotten": 0,
            "splits": {"train": 2, "validation": 1, "audit": 1},
            # Row 0 was forgotten by the live version, validation and audit rows were never in it.
            "models": [{"model": "who", "version": 3, "trained_on": 1}],
        },
        {
            "dataset": other.name,
            "matched": 4,
            "already_forgotten": 0,
            "splits": {"train": 2, "validation": 1, "audit": 1},
            "models": [],
        },
    ]


def test_a_preview_says_what_the_request_then_is(session: Session) -> None:
    limited = _data(session)
    _model(session, limited, policy={"approval": {"max_records_per_request": 3}})
    for ask in (
        Ask(limited.name, "subject", subject_id="ann"),
        Ask(limited.name, "records", ("r0", "x")),
        Ask(limited.name, "records", ("x",)),
        Ask(limited.name, "subject", subject_id="ben"),
    ):
        seen = _preview(session, ask)
        asked = intake.record(session, ask, principal="k", digester=DIGESTER, now=NOW).answer
        common = [name for name in seen if name in asked]
        assert {name: seen[name] for name in common} == {name: asked[name] for name in common}
        assert len(common) == 9


def test_a_preview_records_only_that_somebody_looked(session: Session) -> None:
    data = _data(session)
    _model(session, data)
    _preview(session, Ask(data.name, "subject", subject_id="ann"))
    session.commit()
    for table in (DeletionRequest, RequestRecord, Erasure):
        assert session.scalar(select(func.count()).select_from(table)) == 0
    [line] = session.scalars(select(AuditEvent)).all()
    shown = chain.describe(line)
    assert (shown["action"], shown["actor"]) == ("deletion_request:previewed", "key:key_crm")
    assert shown["data"] == {"kind": "subject", "dataset": data.name}
    digest = session.get_one(Record, (data.id, 0)).subject_digest
    assert digest is not None
    assert digest not in repr(shown)


@pytest.mark.parametrize(
    ("ask", "refusal"),
    [
        (Ask("nowhere", "records", ("r0",)), NotFound),
        (Ask("nameless", "subject", subject_id="ann"), NoSubjectIds),
    ],
)
def test_a_preview_is_refused_as_the_request_would_be(
    session: Session, ask: Ask, refusal: type[Exception]
) -> None:
    factories.dataset(session, name="nameless")
    with pytest.raises(refusal):
        _preview(session, ask)
