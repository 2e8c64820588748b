"""Deletion requests in the ledger: recorded, joined by models, cancelled, tried again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.ledger.audit import chain
from service.ledger.database import db, locks
from service.ledger.database.states import (
    DatasetStatus,
    ErasureStatus,
    RequestStatus,
    RunStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    AuditEvent,
    Dataset,
    DeletionRequest,
    Erasure,
    Record,
)
from service.ledger.obligations import completion, shares
from service.ledger.registry import capabilities, versions
from service.ledger.requests import lifecycle, lookup, parts
from service.ledger.selection import exclusions, naming
from service.ledger.selection.matching import Ask
from service.ledger.training import runs
from service.messages.catalogue import Announcement
from tests import factories
from tests.factories import NOW
from tests.service.ledger.requests.asking import (
    actions_of,
    awaiting_approval,
    erase_rows,
    of_records,
    published_model,
    recorded,
    refused_with,
)


def test_a_request_fans_out_to_every_published_model(session: Session) -> None:
    data = factories.dataset(session)
    models = [published_model(session, data), published_model(session, data)]
    factories.model(session, data, error="its architecture does not fit the data")
    published_model(session, factories.dataset(session))
    [request] = recorded(session, of_records(data, "r3", "r1", "r3", "unknown"))
    assert (request.status, request.kind) == (RequestStatus.ACCEPTED, "records")
    assert (request.matched, request.not_found, request.already_forgotten) == (2, 1, 0)
    assert lookup.rows(session, request.id) == [1, 3]
    shares = session.scalars(select(Erasure).order_by(Erasure.model_id)).all()
    assert [share.model_id for share in shares] == [model.id for model in models]
    assert {share.status for share in shares} == {ErasureStatus.PENDING}
    assert actions_of(session, request) == ["deletion_request:accepted"]


@pytest.mark.parametrize(("forgets", "allowed"), [(["records"], False), (["class"], True)])
def test_a_class_request_needs_a_method_that_forgets_classes(
    session: Session, forgets: list[str], allowed: bool
) -> None:
    data = factories.dataset(session)
    published_model(session, data, policy={"method": "iau"})
    known = Announcement("method", "iau", "", {}, "1", {"forgets": forgets})
    capabilities.announce(session, [known], now=NOW)
    ask = Ask(data.name, "class", label=1)
    if allowed:
        assert recorded(session, ask)[0].status == RequestStatus.ACCEPTED
    else:
        assert isinstance(refused_with(session, ask), parts.CannotForgetClasses)


def test_erased_records_are_counted_and_not_forgotten_twice(session: Session) -> None:
    data = factories.dataset(session)
    published_model(session, data)
    erase_rows(session, data, [0, 1])
    [some, all_of_it] = recorded(
        session, of_records(data, "r0", "r1", "r2"), of_records(data, "r0", "r1")
    )
    assert (some.status, some.matched, some.already_forgotten) == (RequestStatus.ACCEPTED, 1, 2)
    assert lookup.rows(session, some.id) == [2]
    assert all_of_it.status == RequestStatus.COMPLETED
    assert all_of_it.completed_at == NOW
    assert actions_of(session, all_of_it) == ["deletion_request:completed"]


def _end_of(session: Session, request: DeletionRequest) -> dict[str, Any]:
    """The public form of a request whose records workers have forgotten and erased."""
    for share in session.scalars(select(Erasure).where(Erasure.request_id == request.id)):
        share.status = ErasureStatus.COMPLETED
    request.status = RequestStatus.PROCESSING
    erase_rows(
        session, session.get_one(Dataset, request.dataset_id), lookup.rows(session, request.id)
    )
    assert completion.settle(session, now=NOW, actor="worker:test") == [request.id]
    return lookup.detail(session, request)


def test_what_was_not_found_is_still_said_at_the_end(session: Session) -> None:
    data = factories.dataset(session)
    published_model(session, data)
    [partly, whole] = recorded(
        session, of_records(data, "r0", "r1", "x", "y", "z"), of_records(data, "r3")
    )
    for shown in (lookup.detail(session, partly), _end_of(session, partly)):
        assert shown["complete_match"] is False
        assert shown["status_reason"] == "3 of 5 record ids name nothing in this dataset"
    assert shown["status"] == "completed"
    shown = _end_of(session, whole)
    assert (shown["complete_match"], shown["status_reason"]) == (True, None)


def test_what_was_not_found_is_said_beside_another_reason(session: Session) -> None:
    data = factories.dataset(session)
    published_model(session, data)
    erase_rows(session, data, [0, 1])
    asked = recorded(session, of_records(data, "r0", "r1", "x"), of_records(data, "x"))
    partly, nothing = (lookup.detail(session, one) for one in asked)
    assert partly["status_reason"] == (
        "1 of 3 record ids names nothing in this dataset; every record found was forgotten before"
    )
    assert (partly["status"], partly["complete_match"]) == ("completed", False)
    assert (nothing["status"], nothing["complete_match"]) == ("no_match", False)
    assert nothing["status_reason"] == "the dataset holds none of the records"


def test_a_record_whose_erasure_is_under_way_is_waited_for(session: Session) -> None:
    data = factories.dataset(session)
    session.get_one(Record, (data.id, 0)).excluded_revision = 1
    [request] = recorded(session, of_records(data, "r0"))
    assert (request.status, request.matched) == (RequestStatus.ACCEPTED, 1)


def test_nothing_matched_is_recorded_and_ends_at_once(session: Session) -> None:
    data = factories.dataset(session, subjects=["ann"] * 12)
    published_model(session, data)
    [request] = recorded(session, Ask(data.name, "subject", subject_id="nobody"))
    assert request.status == RequestStatus.NO_MATCH
    assert session.scalars(select(Erasure)).all() == []
    assert actions_of(session, request) == ["deletion_request:no_match"]


def test_an_unknown_dataset_is_refused(session: Session) -> None:
    assert isinstance(refused_with(session, Ask("nowhere", "records", ("r0",))), NotFound)


@pytest.mark.parametrize("status", [DatasetStatus.INGESTING, DatasetStatus.FAILED])
def test_a_dataset_that_is_not_ready_is_refused(session: Session, status: DatasetStatus) -> None:
    data = factories.dataset(session, status=status)
    refusal = refused_with(session, of_records(data, "r0"))
    assert isinstance(refusal, parts.DatasetNotReady)


def _concerned(session: Session, request: DeletionRequest) -> set[int]:
    return set(session.scalars(select(Erasure.model_id).filter_by(request_id=request.id)))


def test_a_model_that_never_trained_holds_no_request_up(session: Session) -> None:
    data = factories.dataset(session)
    live = published_model(session, data)
    factories.model(session, data)
    failed = factories.model(session, data)
    factories.training_run(session, failed, status=RunStatus.FAILED)
    queued = factories.model(session, data)
    factories.training_run(session, queued, status=RunStatus.QUEUED)
    [request] = recorded(session, of_records(data, "r0"))
    assert request.status == RequestStatus.ACCEPTED
    assert _concerned(session, request) == {live.id}


def test_a_first_training_that_runs_gets_its_share(session: Session) -> None:
    data = factories.dataset(session)
    learning = factories.model(session, data)
    factories.training_run(session, learning, status=RunStatus.RUNNING)
    catching_up = factories.model(session, data)
    factories.version(session, catching_up, production=False, status=VersionStatus.CANDIDATE)
    [request] = recorded(session, of_records(data, "r0"))
    assert _concerned(session, request) == {learning.id, catching_up.id}


def test_an_approved_request_concerns_the_training_that_began_meanwhile(session: Session) -> None:
    request = awaiting_approval(session)
    data = session.get_one(Dataset, request.dataset_id)
    learning = factories.model(session, data)
    factories.training_run(session, learning, status=RunStatus.RUNNING)
    lifecycle.approve(session, request.id, actor="key:boss", now=NOW)
    assert learning.id in _concerned(session, request)


def test_a_training_that_starts_gets_its_share_of_what_is_not_excluded_yet(
    session: Session,
) -> None:
    data = factories.dataset(session)
    published_model(session, data)
    [waiting, begun] = recorded(session, of_records(data, "r0"), of_records(data, "r1"))
    begun.status = RequestStatus.PROCESSING
    exclusions.exclude(session, data.id, naming.Names.of([begun]))
    learning = factories.model(session, data)
    run = factories.training_run(session, learning, status=RunStatus.QUEUED)
    locked = locks.dataset(session, data.id, locks.Hold.PUBLICATION)
    runs.start(session, run, data_revision=locked.revision, actor="worker:w", now=NOW)
    assert learning.id in _concerned(session, waiting)
    assert learning.id not in _concerned(session, begun)


def test_a_request_is_cancelled_until_a_worker_claims_it(session: Session) -> None:
    data = factories.dataset(session)
    model = published_model(session, data)
    [free, claimed] = recorded(session, of_records(data, "r0"), of_records(data, "r1"))
    lifecycle.cancel(session, free.id, actor="key:me")
    assert free.status == RequestStatus.CANCELLED
    share = session.scalars(select(Erasure).where(Erasure.request_id == claimed.id)).one()
    share.status = ErasureStatus.CLAIMED
    session.flush()
    assert share.model_id == model.id
    with pytest.raises(lifecycle.AlreadyClaimed):
        lifecycle.cancel(session, claimed.id, actor="key:me")
    session.refresh(claimed)
    assert claimed.status == RequestStatus.ACCEPTED
    assert lifecycle.cancel(session, free.id, actor="key:me").status == RequestStatus.CANCELLED


@pytest.mark.postgres
def test_a_cancel_that_meets_a_claim_gives_way(postgres_database: Engine) -> None:
    sessions = db.session_factory(postgres_database)
    with sessions() as setup:
        data = factories.dataset(setup)
        published_model(setup, data)
        [request] = recorded(setup, of_records(data, "r0"))
        setup.commit()
    with sessions() as worker, sessions() as client:
        seen = lookup.get(client, request.id)
        share = worker.scalars(select(Erasure)).one()
        share.status = ErasureStatus.CLAIMED
        worker.get_one(DeletionRequest, request.id).status = RequestStatus.PROCESSING
        worker.commit()
        assert seen.status == RequestStatus.ACCEPTED  # as it was read, before the claim
        with pytest.raises(Conflict):
            lifecycle.cancel(client, request.id, actor="key:me")


def test_a_request_put_aside_gets_a_fresh_set_of_attempts(session: Session) -> None:
    data = factories.dataset(session)
    published_model(session, data)
    [request] = recorded(session, of_records(data, "r0"))
    with pytest.raises(Conflict):
        lifecycle.retry(session, request.id, actor="key:me")
    share = session.scalars(select(Erasure)).one()
    share.status, share.attempts, share.error = ErasureStatus.NEEDS_REVIEW, 3, "it diverged"
    request.status, request.status_reason = RequestStatus.NEEDS_REVIEW, "it diverged"
    session.flush()
    lifecycle.retry(session, request.id, actor="key:me")
    session.refresh(share)
    assert (request.status, request.status_reason) == (RequestStatus.PROCESSING, None)
    assert (share.status, share.attempts) == (ErasureStatus.PENDING, 0)
    assert share.cohort is not None


def test_a_model_that_goes_live_joins_open_requests_once(session: Session) -> None:
    data = factories.dataset(session)
    published_model(session, data)
    [open_one] = recorded(session, of_records(data, "r0"))
    factories.request(session, data, status=RequestStatus.COMPLETED)
    late = published_model(session, data)
    assert shares.join(session, late, data_revision=0, now=NOW) == 1
    assert shares.join(session, late, data_revision=0, now=NOW) == 0
    joined = session.scalars(select(Erasure).where(Erasure.model_id == late.id)).all()
    assert [share.request_id for share in joined] == [open_one.id]


def test_a_model_imported_without_going_live_joins_when_it_is_promoted(session: Session) -> None:
    data = factories.dataset(session)
    model = factories.model(session, data)
    version = factories.version(session, model, production=False)
    [request] = recorded(session, of_records(data, "r0"))
    assert _concerned(session, request) == set()
    versions.promote(
        session, model, version, expected_production=None, reason="x", actor="key:k", now=NOW
    )
    assert _concerned(session, request) == {model.id}


def test_the_list_filters_and_continues_after_a_row(session: Session) -> None:
    data, other = factories.dataset(session), factories.dataset(session)
    model = published_model(session, data)
    mine = recorded(session, *(of_records(data, f"r{row}") for row in range(3)))
    recorded(session, of_records(other, "r0"), of_records(other, "unknown"))

    def ids(**chosen: Any) -> list[str]:
        return [
            row["id"]
            for row in lookup.listing(session, lookup.Filter(**chosen), after=None, limit=10)
        ]

    assert ids(dataset=data.name) == ids(model=model.name) == sorted(one.id for one in mine)
    assert len(ids()) == 5
    assert len(ids(status=RequestStatus.NO_MATCH)) == 1
    assert ids(due_before=NOW) == []
    assert len(ids(due_before=NOW + timedelta(days=40))) == 5
    after = lookup.listing(session, lookup.Filter(), after=min(one.id for one in mine), limit=1)
    assert [row["id"] for row in after] == ids()[1:2]
    with pytest.raises(NotFound):
        ids(model="unknown")


def test_what_is_recorded_holds_no_subject_or_record_id(session: Session) -> None:
    data = factories.dataset(session, rows=2, subjects=["planted-person", None])
    [request, _] = recorded(
        session,
        Ask(data.name, "subject", subject_id="planted-person"),
        of_records(data, "planted-record"),
    )
    chain.write(session)
    written = [chain.describe(line) for line in session.scalars(select(AuditEvent))]
    shown = lookup.detail(session, request)
    assert len(written) == 2
    assert "planted" not in repr((written, shown))
    assert "planted" not in repr(Ask(data.name, "subject", subject_id="planted-person"))


def test_many_requests_cost_as_many_statements_as_one(session: Session) -> None:
    data = factories.dataset(session, rows=40)
    published_model(session, data)
    session.commit()
    bound = session.bind
    counts = []
    for names in (["r0"], [f"r{row}" for row in range(1, 40)]):
        seen: list[str] = []
        listener = _count_statements(bound, seen)
        recorded(session, *(of_records(data, name) for name in names))
        session.commit()
        listener()
        counts.append(len([line for line in seen if "deletion_requests.id =" not in line]))
    assert counts[0] == counts[1]


def _count_statements(bound: Any, seen: list[str]) -> Any:

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    event.listen(bound, "before_cursor_execute", note)
    return lambda: event.remove(bound, "before_cursor_execute", note)
