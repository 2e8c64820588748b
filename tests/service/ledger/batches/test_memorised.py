"""Held batches of records that the base version has memorised."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from service.ledger.audit import canonical
from service.ledger.batches import approvals, claims, execution, queue
from service.ledger.database.states import BatchStatus, ErasureStatus, VersionStatus
from service.ledger.database.tables import Dataset, Erasure
from tests import factories
from tests.factories import NOW
from tests.service.ledger.batches.held import Case, change_policy


def _newer(session: Session, case: Case, *, rows: list[int], **columns: object) -> Erasure:
    data = session.get_one(Dataset, case.model.dataset_id)
    asked = factories.request(session, data, rows=rows, **columns)
    return factories.erasure(session, asked, case.model)


def test_step_on_memorised_records_says_what_it_waits_for(
    session: Session, memorised: Case
) -> None:
    reason = str(memorised.request.status_reason)
    assert "memorised" in reason
    assert canonical.moment(memorised.request.due_at - timedelta(days=3)) in reason
    shown = approvals.reasons(session, memorised.model, [memorised.version])[memorised.version.id]
    assert "memorised" in shown
    assert "accuracy" not in shown + reason
    assert memorised.version.mark == "memorised"


def test_newer_request_makes_one_batch_with_memorised_records(
    session: Session, memorised: Case
) -> None:
    newer = _newer(session, memorised, rows=[4, 5])
    assert queue.due_models(session, now=NOW) == [memorised.model.id]
    batch = claims.claim(session, memorised.model, held=memorised.held, now=NOW)
    session.commit()
    assert batch is not None
    assert batch.id != memorised.batch.id
    assert (batch.base_version_id, execution.rows(session, batch)) == (
        memorised.base.id,
        [0, 4, 5],
    )
    assert memorised.batch.status == BatchStatus.FAILED
    assert memorised.version.status == VersionStatus.REJECTED
    assert memorised.request.status_reason is None
    assert (newer.status, newer.batch_id) == (ErasureStatus.CLAIMED, batch.id)


def test_older_request_whose_pause_is_over_makes_one_batch_with_memorised_records(
    session: Session, memorised: Case
) -> None:
    session.query(Erasure).one().id = 50
    older = _newer(session, memorised, rows=[4])
    older.id, older.not_before, older.attempts = 49, NOW + timedelta(seconds=5), 1
    session.flush()
    assert claims.claim(session, memorised.model, held=memorised.held, now=NOW) is None
    then = NOW + timedelta(seconds=5)
    batch = claims.claim(session, memorised.model, held=memorised.held, now=then)
    assert batch is not None
    assert execution.rows(session, batch) == [0, 4]


@pytest.mark.parametrize("why", ["not due yet", "too many", "a class"])
def test_newer_request_that_cannot_join_leaves_memorised_records_held(
    session: Session, memorised: Case, why: str
) -> None:
    if why == "not due yet":
        memorised.model.policy = {**memorised.model.policy, "max_wait_seconds": 60.0}
    rows = [4, 5, 6, 7] if why == "too many" else [4]
    kind = "class" if why == "a class" else "records"
    _newer(session, memorised, rows=rows, kind=kind, label=1 if why == "a class" else None)
    assert claims.claim(session, memorised.model, held=memorised.held, now=NOW) is None
    assert memorised.batch.status == BatchStatus.HELD


@pytest.mark.parametrize("how", ["approved", "due", "policy"])
def test_memorised_records_are_done_when_decided_or_due(
    session: Session, memorised: Case, how: str
) -> None:
    now = NOW
    if how == "approved":
        approvals.approve(session, memorised.model, memorised.version, actor="key:k", now=now)
    else:
        if how == "policy":
            change_policy(session, memorised, on_accuracy_drop="promote")
            assert queue.due_models(session, now=now) == []
            change_policy(session, memorised, on_memorised="promote")
        else:
            now = memorised.request.due_at
        assert queue.due_models(session, now=now) == [memorised.model.id]
        assert claims.claim(session, memorised.model, held=memorised.held, now=now) is None
    session.commit()
    assert memorised.model.production_id == memorised.version.id
    assert memorised.batch.status == BatchStatus.COMPLETED
    assert memorised.version.mark == "memorised"
