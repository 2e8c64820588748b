"""What a replay of a tombstone list makes of a restored database."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables import (
    AuditEvent,
    Dataset,
    DeletionRequest,
    Erasure,
    Record,
    RequestRecord,
)
from service.ledger.requests import deadlines, legal_holds, lookup
from service.ledger.requests.legal_holds import HoldReason
from tests import factories
from tests.factories import NOW
from tests.service.ledger.restore.lost import (
    compared,
    completed,
    exported,
    extended_request,
    lose,
    replayed,
)


def test_lost_request_comes_back_with_its_dates_and_an_erasure_per_model(
    session: Session, data: Dataset
) -> None:
    model = factories.model(session, data)
    factories.version(session, model)
    factories.model(session, data)  # never trained: has nothing to forget
    request = completed(session, data, 4, 5)
    listed = exported(session)
    lose(session, request)
    for row in (4, 5):
        session.get_one(Record, (data.id, row)).erased_at = None
    session.flush()
    done = replayed(session, listed)
    assert (done.requests, done.records, done.retrained) == (1, 2, ())
    session.expire_all()
    again = session.get_one(DeletionRequest, request.id)
    assert (again.status, again.created_at) == (RequestStatus.PROCESSING, NOW)
    assert (again.due_at, again.matched) == (NOW + timedelta(days=31), 2)
    share = session.scalars(select(Erasure).filter_by(request_id=request.id)).one()
    assert (share.model_id, share.status) == (model.id, ErasureStatus.PENDING)
    assert session.get_one(Record, (data.id, 4)).excluded_revision is not None
    lines = session.scalars(select(AuditEvent).order_by(AuditEvent.seq)).all()
    assert [line.action for line in lines][-2:] == ["deletion_request:accepted", "restore:replayed"]
    assert chain.verify(session).sound


def test_lost_request_comes_back_with_its_regulation_and_extensions(
    session: Session, data: Dataset
) -> None:
    request = extended_request(session, data)
    listed = exported(session)
    lose(session, request)
    replayed(session, listed)
    session.expire_all()
    again = session.get_one(DeletionRequest, request.id)
    asked = NOW - timedelta(days=3)
    assert (again.regulation, again.extensions, again.asked_at) == ("ccpa", 1, asked)
    assert again.due_at == asked + timedelta(days=90)
    assert deadlines.periods_left(again) == 0


def test_due_date_that_was_extended_after_the_backup_is_set_again(
    session: Session, data: Dataset
) -> None:
    request = extended_request(session, data)
    due_at, listed = request.due_at, exported(session)
    request.due_at, request.extensions = due_at - timedelta(days=45), None  # as in the backup
    session.flush()
    assert [one.id for one in compared(session, listed).redated] == [request.id]
    replayed(session, listed)
    session.expire_all()
    again = session.get_one(DeletionRequest, request.id)
    assert (again.due_at, again.extensions) == (due_at, 1)
    assert compared(session, listed).redated == ()
    assert chain.verify(session).sound


def test_rows_erased_through_another_request_end_a_lost_one_at_once(
    session: Session, data: Dataset
) -> None:
    request = completed(session, data, 4)
    listed = exported(session)
    session.query(RequestRecord).delete()
    session.delete(request)
    session.flush()
    replayed(session, listed, letters=[4])
    session.expire_all()
    again = session.get_one(DeletionRequest, request.id)
    assert (again.status, again.completed_at) == (RequestStatus.COMPLETED, NOW)
    assert (again.matched, again.already_forgotten) == (0, 1)


def test_request_that_waits_for_approval_waits_again(session: Session, data: Dataset) -> None:
    model = factories.model(session, data)
    factories.version(session, model)
    request = factories.request(session, data, status=RequestStatus.AWAITING_APPROVAL)
    listed = exported(session)
    lose(session, request)
    replayed(session, listed)
    session.expire_all()
    again = session.get_one(DeletionRequest, request.id)
    assert again.status == RequestStatus.AWAITING_APPROVAL
    assert session.scalars(select(Erasure)).all() == []
    assert session.get_one(Record, (data.id, 0)).excluded_revision is None


def test_approval_given_after_the_backup_is_given_again(session: Session, data: Dataset) -> None:
    model = factories.model(session, data)
    factories.version(session, model)
    request = factories.request(session, data, status=RequestStatus.PROCESSING)
    listed = exported(session)
    request.status = RequestStatus.AWAITING_APPROVAL
    session.flush()
    replayed(session, listed)
    session.expire_all()
    assert request.status == RequestStatus.PROCESSING
    assert session.scalars(select(Erasure)).one().request_id == request.id


@pytest.mark.parametrize("status", [RequestStatus.CANCELLED, RequestStatus.DENIED])
def test_withdrawn_request_is_withdrawn_again_and_never_recreated(
    session: Session, data: Dataset, status: RequestStatus
) -> None:
    open_again = factories.request(session, data, rows=[1], status=status)
    unknown = factories.request(session, data, rows=[2], status=status)
    listed = exported(session)
    lose(session, unknown)
    open_again.status = RequestStatus.AWAITING_APPROVAL
    session.flush()
    assert not compared(session, listed).clean
    replayed(session, listed)
    session.expire_all()
    assert open_again.status == status
    assert session.get(DeletionRequest, unknown.id) is None
    assert compared(session, listed).clean


def test_legal_holds_are_in_force_again_or_released_again(session: Session, data: Dataset) -> None:
    kept, lost, let_go = (factories.request(session, data, rows=[row]) for row in range(3))
    who = {"actor": "key:k", "now": NOW}
    for one in (kept, lost):
        legal_holds.place(
            session, one.id, code=HoldReason.AUTHORITY_ORDER, reason="docket 4711", **who
        )
    session.commit()
    listed = exported(session)
    assert "docket" not in listed.model_dump_json()
    legal_holds.release(session, kept.id, reason="as before the hold", **who)
    lose(session, lost)
    legal_holds.place(
        session, let_go.id, code=HoldReason.LEGAL_CLAIMS, reason="as before the release", **who
    )
    session.commit()
    found = compared(session, listed)
    assert ({one.id for one in found.unheld}, [one.id for one in found.released]) == (
        {kept.id, lost.id},
        [let_go.id],
    )
    assert not found.clean
    replayed(session, listed)
    session.commit()
    shown = {
        one: lookup.detail(session, lookup.get(session, one))
        for one in (kept.id, lost.id, let_go.id)
    }
    assert [one["legal_hold"] for one in shown.values()] == [True, True, False]
    assert shown[lost.id]["legal_holds"][-1]["reason_code"] == "authority_order"
    found = compared(session, listed)
    assert (found.unheld, found.released) == ((), ())


@pytest.mark.parametrize("end", [RequestStatus.DENIED, RequestStatus.ACCEPTED])
def test_a_request_decided_on_and_held_since_the_backup_is_both_again(
    session: Session, data: Dataset, end: RequestStatus
) -> None:
    request = factories.request(session, data, status=end)
    request.status = RequestStatus.AWAITING_APPROVAL
    legal_holds.place(
        session, request.id, code=HoldReason.LEGAL_CLAIMS, reason="x", actor="key:k", now=NOW
    )
    request.status = end
    session.commit()
    listed = exported(session)
    legal_holds.release(session, request.id, reason="not yet placed", actor="key:k", now=NOW)
    request.status = RequestStatus.AWAITING_APPROVAL
    session.commit()
    replayed(session, listed)
    session.commit()
    assert (request.status, request.legal_hold_id is not None) == (end, True)
    assert compared(session, listed).clean


def test_dataset_that_is_gone_is_named_and_passed_over(session: Session, data: Dataset) -> None:
    factories.request(session, data, status=RequestStatus.PROCESSING)
    listed = exported(session)
    other = listed.requests[0].model_copy(update={"id": "dr_x", "dataset": "gone"})
    listed = listed.model_copy(update={"requests": [other]})
    assert compared(session, listed).unknown_datasets == ("gone",)
    assert replayed(session, listed).requests == 0


def test_live_version_that_contains_hollow_rows_is_retrained(
    session: Session, data: Dataset
) -> None:
    model, other = factories.model(session, data), factories.model(session, data)
    for one in (model, other):
        factories.version(session, one)
    clean = factories.version(session, other, data_revision=5)
    running = factories.batch(session, model, session.get_one(type(clean), model.production_id))
    session.get_one(Record, (data.id, 7)).excluded_revision = 3
    session.flush()
    done = replayed(session, exported(session), letters=[7])
    session.expire_all()
    assert done.retrained == (model.name,)
    assert model.run_now_method == running.method == {"method": "retrain", "options": {}}
    assert other.run_now_method is None
