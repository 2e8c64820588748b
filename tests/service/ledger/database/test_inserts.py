"""Rows of several tables at once: what is read back is what was given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.ledger.database import inserts
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables import DeletionRequest, Erasure, IdempotencyKey, RequestRecord
from service.ledger.obligations import shares
from tests import factories

#: What quoting, parameters and JSON treat in a way of their own.
ODD = "a \"quoted\" 'text' with :name %s %(name)s \\ \u2028 \n and 🙂"


def _request(id: str, dataset_id: int, **columns: Any) -> DeletionRequest:
    return DeletionRequest(
        id=id,
        dataset_id=dataset_id,
        **{
            "kind": "records",
            "status": RequestStatus.ACCEPTED,
            "principal": "key_test",
            "matched": 1,
            "already_forgotten": 0,
            "not_found": 0,
            "created_at": factories.NOW,
            "due_at": factories.NOW,
            "expected_by": factories.NOW,
            **columns,
        },
    )


def test_rows_of_tables_that_refer_to_each_other_are_read_back_as_given(session: Session) -> None:
    data = factories.dataset(session)
    models = [factories.model(session, data) for _ in range(2)]
    moment = datetime(2026, 3, 1, 13, 0, 0, 123456, timezone(timedelta(hours=2)))
    asked = [
        _request("dr_1", data.id, reason=ODD, created_at=moment),
        _request("dr_2", data.id, label=2, status=RequestStatus.NO_MATCH, completed_at=moment),
    ]
    answer = {"text": ODD, "numbers": [1, 1.5, None, True], "empty": {}}
    key = IdempotencyKey(
        principal="key_test", key="k", body_digest="d", answer=answer, created_at=factories.NOW
    )
    inserts.write(
        session,
        {
            DeletionRequest: [inserts.values(one) for one in asked],
            IdempotencyKey: [inserts.values(key)],
            RequestRecord: [
                {"request_id": "dr_1", "dataset_id": data.id, "row": n} for n in (3, 4)
            ],
            Erasure: shares.rows("dr_1", models, now=factories.NOW),
        },
    )
    session.commit()
    session.expire_all()
    for given in asked:
        stored = inserts.values(session.get_one(DeletionRequest, given.id))
        assert stored == inserts.values(given)
    assert session.get_one(DeletionRequest, "dr_1").created_at.tzinfo is UTC
    assert session.scalars(select(IdempotencyKey.answer)).one() == answer
    assert set(session.scalars(select(RequestRecord.row))) == {3, 4}
    erasures = session.scalars(select(Erasure).order_by(Erasure.model_id)).all()
    assert [one.model_id for one in erasures] == [one.id for one in models]
    assert {(one.status, one.attempts) for one in erasures} == {(ErasureStatus.PENDING, 0)}


def test_one_row_that_is_refused_takes_the_others_with_it(session: Session) -> None:
    data = factories.dataset(session)
    session.commit()
    rows = [inserts.values(_request(id, data.id)) for id in ("dr_1", "dr_2", "dr_1")]
    with pytest.raises(IntegrityError):
        inserts.write(session, {DeletionRequest: rows})
    session.rollback()
    assert session.scalars(select(DeletionRequest.id)).all() == []


def test_a_moment_without_a_time_zone_is_refused(session: Session) -> None:
    data = factories.dataset(session)
    naive = inserts.values(_request("dr_1", data.id, created_at=datetime(2026, 3, 1)))
    with pytest.raises(Exception, match="time-zone aware"):
        inserts.write(session, {DeletionRequest: [naive]})
