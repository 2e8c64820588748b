"""Deletion requests in the ledger: recorded, cancelled, approved, tried again."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.orm import Session, sessionmaker

from service.errors import Conflict, NotFound, ServiceError
from service.ledger.audit import chain
from service.ledger.database import db, locks
from service.ledger.database.identifiers import Case, Origin
from service.ledger.database.states import (
    BatchStatus,
    DatasetStatus,
    ErasureStatus,
    RequestStatus,
    RunStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    AuditEvent,
    AuditHead,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
)
from service.ledger.obligations import erasures, shares
from service.ledger.registry import capabilities, versions
from service.ledger.requests import lifecycle, outlook, page, parts
from service.ledger.selection import naming
from service.ledger.selection.matching import Ask
from service.ledger.training import runs
from service.messages.catalogue import Announcement
from tests import factories
from tests.factories import NOW


def _record(session: Session, *asks: Ask, **options: Any) -> list[DeletionRequest]:
    submissions = [lifecycle.Submission(ask, "key_test") for ask in asks]
    outcomes = lifecycle.record_many(
        session, submissions, digester=factories.DIGESTER, now=NOW, **options
    )
    made = []
    for outcome in outcomes:
        assert isinstance(outcome, lifecycle.Receipt), outcome
        made.append(lifecycle.get(session, outcome.answer["id"]))
    return made


def _refusal(session: Session, ask: Ask, **options: Any) -> ServiceError:
    [outcome] = lifecycle.record_many(
        session,
        [lifecycle.Submission(ask, "key_test")],
        digester=factories.DIGESTER,
        now=NOW,
        **options,
    )
    assert isinstance(outcome, ServiceError)
    assert session.scalars(select(DeletionRequest)).all() == []
    return outcome


def _published(session: Session, data: Dataset, **columns: Any) -> Model:
    model = factories.model(session, data, **columns)
    factories.version(session, model)
    return model


def _records(data: Dataset, *names: str) -> Ask:
    return Ask(data.name, "records", record_ids=names)


def _erased(session: Session, data: Dataset, rows: Sequence[int]) -> None:
    for row in rows:
        record = session.get_one(Record, (data.id, row))
        record.excluded_revision, record.erased_at = 1, NOW
    session.flush()


def _actions(session: Session, request: DeletionRequest) -> list[str]:
    lines = select(AuditEvent.action).where(AuditEvent.subject == f"deletion_request:{request.id}")
    chain.write(session)
    return list(session.scalars(lines.order_by(AuditEvent.seq)))


@pytest.mark.parametrize("asked", ["jos\u00e9", "jose\u0301", " jos\u00e9", "jos\u00e9\u00a0"])
def test_an_id_is_found_in_every_form_of_it(session: Session, asked: str) -> None:
    data = factories.dataset(session, subjects=["jos\u00e9", "jos\u00e9", *["eve"] * 10])
    session.get_one(Record, (data.id, 5)).record_id = "jos\u00e9"
    _published(session, data)
    by_subject, by_id = _record(
        session, Ask(data.name, "subject", subject_id=asked), _records(data, asked, "jos\u00e9")
    )
    assert lifecycle.rows(session, by_subject.id) == [0, 1]
    assert by_subject.subject_digest == factories.DIGESTER.subject("jos\u00e9")
    assert lifecycle.rows(session, by_id.id) == [5]
    assert (by_id.matched, by_id.not_found) == (1, 0)


def test_case_is_ignored_where_the_source_says_so(session: Session) -> None:
    data = factories.dataset(session, subjects=["eve@x.org"] * 12, id_case=Case.IGNORED)
    exact = factories.dataset(session, subjects=["eve@x.org"] * 12)
    found = _record(
        session,
        *(Ask(one.name, "subject", subject_id="Eve@X.org") for one in (data, exact)),
        *(_records(one, "R3", "r3") for one in (data, exact)),
    )
    assert [request.matched for request in found] == [12, 0, 1, 1]
    assert [request.not_found for request in found[2:]] == [0, 1]


def test_ids_kept_before_they_were_normalised_are_found_as_given(session: Session) -> None:
    data = factories.dataset(session, subjects=["eve ", *["ann"] * 11])
    session.get_one(Record, (data.id, 5)).record_id = "r3 "
    _published(session, data)
    by_subject, by_id, both = _record(
        session,
        Ask(data.name, "subject", subject_id="eve "),
        _records(data, "r3 "),
        _records(data, "r3", "r3 "),
    )
    assert lifecycle.rows(session, by_subject.id) == [0]
    assert lifecycle.rows(session, by_id.id) == [5]
    assert lifecycle.rows(session, both.id) == [3, 5]


def _of_generated(session: Session, ids: Sequence[str]) -> Dataset:
    data = factories.dataset(session, rows=len(ids), record_id_origin=Origin.GENERATED)
    for row, record_id in enumerate(ids):
        session.get_one(Record, (data.id, row)).record_id = record_id
    session.flush()
    return data


@pytest.mark.parametrize("asked", ["ann\u2011lee", "ann-lee", "\uff41nn\u2212lee"])
def test_ids_are_found_whichever_dash_they_are_written_with(session: Session, asked: str) -> None:
    data = factories.dataset(session, subjects=["ann-lee", *["eve"] * 11])
    session.get_one(Record, (data.id, 1)).record_id = "ann-lee"
    by_subject, by_id = _record(
        session, Ask(data.name, "subject", subject_id=asked), _records(data, asked)
    )
    assert lifecycle.rows(session, by_subject.id) == [0]
    assert lifecycle.rows(session, by_id.id) == [1]


@pytest.mark.parametrize("dataset", ["old", None])
def test_ids_of_before_dashes_were_folded_are_found(session: Session, dataset: str | None) -> None:
    former = "ann\u2011lee"  # as an ingest kept it then, and its digest
    data = factories.dataset(session, name="old", subjects=[former, "ann-lee", *["eve"] * 10])
    session.get_one(Record, (data.id, 2)).record_id = former
    by_subject, by_id = _record(
        session,
        Ask(dataset, "subject", subject_id=f"{former} "),
        _records(data, f"{former} "),
    )
    # Nobody could tell the two when they were kept: who asks with one of them means both.
    assert lifecycle.rows(session, by_subject.id) == [0, 1]
    assert lifecycle.rows(session, by_id.id) == [2]


def test_where_ids_were_said_to_be_distinct_before_the_one_that_is_named_goes_alone(
    session: Session,
) -> None:
    data = factories.dataset(session, subjects=["\uff501", "p1"] * 6, id_case=Case.DISTINCT)
    wide, plain = _record(
        session,
        Ask(data.name, "subject", subject_id="\uff501"),
        Ask(data.name, "subject", subject_id="p1"),
    )
    assert lifecycle.rows(session, wide.id) == [0, 2, 4, 6, 8, 10]
    assert lifecycle.rows(session, plain.id) == [1, 3, 5, 7, 9, 11]


def test_a_dataset_without_subject_ids_does_not_say_that_it_holds_nobody(session: Session) -> None:
    data = factories.dataset(session)
    refused = _refusal(session, Ask(data.name, "subject", subject_id="planted"))
    assert (refused.status, refused.code) == (409, "no-subject-ids")
    assert "record_ids" in refused.detail
    assert "planted" not in refused.detail


@pytest.mark.parametrize("asked", [["150"], ["row-000001", "150"], ["patient-7"], ["row-1"]])
def test_ids_of_a_client_mean_nothing_where_ids_were_generated(
    session: Session, asked: list[str]
) -> None:
    data = _of_generated(session, [str(row) for row in range(200)])
    refused = _refusal(session, _records(data, *asked))
    assert (refused.status, refused.code) == (409, "no-record-ids")
    assert "row-000000" in refused.detail
    assert asked[-1] not in refused.detail


@pytest.mark.parametrize("kept", ["row-{:06}", "{}"])
def test_rows_are_named_by_their_generated_ids(session: Session, kept: str) -> None:
    data = _of_generated(session, [kept.format(row) for row in range(12)])
    [request] = _record(session, _records(data, "row-000007", "row-000012"))
    assert lifecycle.rows(session, request.id) == [7]
    assert (request.matched, request.not_found) == (1, 1)


def test_a_request_fans_out_to_every_published_model(session: Session) -> None:
    data = factories.dataset(session)
    models = [_published(session, data), _published(session, data)]
    factories.model(session, data, error="its architecture does not fit the data")
    _published(session, factories.dataset(session))
    [request] = _record(session, _records(data, "r3", "r1", "r3", "unknown"))
    assert (request.status, request.kind) == (RequestStatus.ACCEPTED, "records")
    assert (request.matched, request.not_found, request.already_forgotten) == (2, 1, 0)
    assert lifecycle.rows(session, request.id) == [1, 3]
    shares = session.scalars(select(Erasure).order_by(Erasure.model_id)).all()
    assert [share.model_id for share in shares] == [model.id for model in models]
    assert {share.status for share in shares} == {ErasureStatus.PENDING}
    assert _actions(session, request) == ["deletion_request:accepted"]


def test_a_subject_is_found_under_the_present_and_the_previous_key(session: Session) -> None:
    data = factories.dataset(session, rows=4, subjects=["ann", "ben", "ann", None])
    rotated = type(factories.DIGESTER)((b"a-newer-key" * 4, *factories.DIGESTER.keys))
    receipt = lifecycle.record(
        session,
        Ask(data.name, "subject", subject_id="ann"),
        principal="key_test",
        digester=rotated,
        now=NOW,
    )
    request = lifecycle.get(session, receipt.answer["id"])
    assert lifecycle.rows(session, request.id) == [0, 2]
    assert request.subject_digest == rotated.subject("ann")


def test_a_subject_is_found_under_the_digest_that_datasets_had_of_their_own(
    session: Session,
) -> None:
    data = factories.dataset(session, rows=4, subjects=["ann", "ben", "ann", None])
    # HMAC-SHA256 of "subject", the dataset's name and the subject, as releases before stored it.
    message = "\x1f".join(("subject", data.name, "ann")).encode()
    earlier = hmac.new(factories.DIGESTER.keys[0], message, hashlib.sha256).hexdigest()
    session.get_one(Record, (data.id, 0)).subject_digest = earlier
    [request] = _record(session, Ask(data.name, "subject", subject_id="ann"))
    assert lifecycle.rows(session, request.id) == [0, 2]


def test_a_subject_has_one_digest_in_every_dataset(session: Session) -> None:
    one, other = (factories.dataset(session, rows=1, subjects=["ann"]) for _ in range(2))
    digests = {session.get_one(Record, (data.id, 0)).subject_digest for data in (one, other)}
    asked = _record(
        session, *(Ask(data.name, "subject", subject_id="ann") for data in (one, other))
    )
    assert digests == {request.subject_digest for request in asked}
    assert len(digests) == 1


def test_a_class_request_takes_every_record_with_the_label(session: Session) -> None:
    data = factories.dataset(session, rows=6, labels=[0, 1, 2, 0, 1, 2])
    [request] = _record(session, Ask(data.name, "class", label=1))
    assert lifecycle.rows(session, request.id) == [1, 4]
    assert (request.kind, request.label) == ("class", 1)


@pytest.mark.parametrize(("forgets", "allowed"), [(["records"], False), (["class"], True)])
def test_a_class_request_needs_a_method_that_forgets_classes(
    session: Session, forgets: list[str], allowed: bool
) -> None:
    data = factories.dataset(session)
    _published(session, data, policy={"method": "iau"})
    known = Announcement("method", "iau", "", {}, "1", {"forgets": forgets})
    capabilities.announce(session, [known], now=NOW)
    ask = Ask(data.name, "class", label=1)
    if allowed:
        assert _record(session, ask)[0].status == RequestStatus.ACCEPTED
    else:
        assert isinstance(_refusal(session, ask), parts.CannotForgetClasses)


def test_erased_records_are_counted_and_not_forgotten_twice(session: Session) -> None:
    data = factories.dataset(session)
    _published(session, data)
    _erased(session, data, [0, 1])
    [some, all_of_it] = _record(
        session, _records(data, "r0", "r1", "r2"), _records(data, "r0", "r1")
    )
    assert (some.status, some.matched, some.already_forgotten) == (RequestStatus.ACCEPTED, 1, 2)
    assert lifecycle.rows(session, some.id) == [2]
    assert all_of_it.status == RequestStatus.COMPLETED
    assert all_of_it.completed_at == NOW
    assert _actions(session, all_of_it) == ["deletion_request:completed"]


def _end_of(session: Session, request: DeletionRequest) -> dict[str, Any]:
    """The public form of a request whose records workers have forgotten and erased."""
    for share in session.scalars(select(Erasure).where(Erasure.request_id == request.id)):
        share.status = ErasureStatus.COMPLETED
    request.status = RequestStatus.PROCESSING
    _erased(
        session, session.get_one(Dataset, request.dataset_id), lifecycle.rows(session, request.id)
    )
    assert erasures.settle(session, now=NOW, actor="worker:test") == [request.id]
    return lifecycle.detail(session, request)


def test_what_was_not_found_is_still_said_at_the_end(session: Session) -> None:
    data = factories.dataset(session)
    _published(session, data)
    [partly, whole] = _record(
        session, _records(data, "r0", "r1", "x", "y", "z"), _records(data, "r3")
    )
    for shown in (lifecycle.detail(session, partly), _end_of(session, partly)):
        assert shown["complete_match"] is False
        assert shown["status_reason"] == "3 of 5 record ids name nothing in this dataset"
    assert shown["status"] == "completed"
    shown = _end_of(session, whole)
    assert (shown["complete_match"], shown["status_reason"]) == (True, None)


def test_what_was_not_found_is_said_beside_another_reason(session: Session) -> None:
    data = factories.dataset(session)
    _published(session, data)
    _erased(session, data, [0, 1])
    asked = _record(session, _records(data, "r0", "r1", "x"), _records(data, "x"))
    partly, nothing = (lifecycle.detail(session, one) for one in asked)
    assert partly["status_reason"] == (
        "1 of 3 record ids names nothing in this dataset; every record found was forgotten before"
    )
    assert (partly["status"], partly["complete_match"]) == ("completed", False)
    assert (nothing["status"], nothing["complete_match"]) == ("no_match", False)
    assert nothing["status_reason"] == "the dataset holds none of the records"


def test_a_record_whose_erasure_is_under_way_is_waited_for(session: Session) -> None:
    data = factories.dataset(session)
    session.get_one(Record, (data.id, 0)).excluded_revision = 1
    [request] = _record(session, _records(data, "r0"))
    assert (request.status, request.matched) == (RequestStatus.ACCEPTED, 1)


def test_nothing_matched_is_recorded_and_ends_at_once(session: Session) -> None:
    data = factories.dataset(session, subjects=["ann"] * 12)
    _published(session, data)
    [request] = _record(session, Ask(data.name, "subject", subject_id="nobody"))
    assert request.status == RequestStatus.NO_MATCH
    assert session.scalars(select(Erasure)).all() == []
    assert _actions(session, request) == ["deletion_request:no_match"]


def test_an_unknown_dataset_is_refused(session: Session) -> None:
    assert isinstance(_refusal(session, Ask("nowhere", "records", ("r0",))), NotFound)


@pytest.mark.parametrize("status", [DatasetStatus.INGESTING, DatasetStatus.FAILED])
def test_a_dataset_that_is_not_ready_is_refused(session: Session, status: DatasetStatus) -> None:
    data = factories.dataset(session, status=status)
    refusal = _refusal(session, _records(data, "r0"))
    assert isinstance(refusal, parts.DatasetNotReady)


def _concerned(session: Session, request: DeletionRequest) -> set[int]:
    return set(session.scalars(select(Erasure.model_id).filter_by(request_id=request.id)))


def test_a_model_that_never_trained_holds_no_request_up(session: Session) -> None:
    data = factories.dataset(session)
    live = _published(session, data)
    factories.model(session, data)
    failed = factories.model(session, data)
    factories.training_run(session, failed, status=RunStatus.FAILED)
    queued = factories.model(session, data)
    factories.training_run(session, queued, status=RunStatus.QUEUED)
    [request] = _record(session, _records(data, "r0"))
    assert request.status == RequestStatus.ACCEPTED
    assert _concerned(session, request) == {live.id}


def test_a_first_training_that_runs_gets_its_share(session: Session) -> None:
    data = factories.dataset(session)
    learning = factories.model(session, data)
    factories.training_run(session, learning, status=RunStatus.RUNNING)
    catching_up = factories.model(session, data)
    factories.version(session, catching_up, production=False, status=VersionStatus.CANDIDATE)
    [request] = _record(session, _records(data, "r0"))
    assert _concerned(session, request) == {learning.id, catching_up.id}


def test_an_approved_request_concerns_the_training_that_began_meanwhile(session: Session) -> None:
    request = _awaiting(session)
    data = session.get_one(Dataset, request.dataset_id)
    learning = factories.model(session, data)
    factories.training_run(session, learning, status=RunStatus.RUNNING)
    lifecycle.approve(session, request.id, actor="key:boss", now=NOW)
    assert learning.id in _concerned(session, request)


def test_a_training_that_starts_gets_its_share_of_what_is_not_excluded_yet(
    session: Session,
) -> None:
    data = factories.dataset(session)
    _published(session, data)
    [waiting, begun] = _record(session, _records(data, "r0"), _records(data, "r1"))
    begun.status = RequestStatus.PROCESSING
    erasures.exclude(session, data.id, naming.Names.of([begun]))
    learning = factories.model(session, data)
    run = factories.training_run(session, learning, status=RunStatus.QUEUED)
    locked = locks.dataset(session, data.id, locks.Hold.PUBLICATION)
    runs.start(session, run, data_revision=locked.revision, actor="worker:w", now=NOW)
    assert learning.id in _concerned(session, waiting)
    assert learning.id not in _concerned(session, begun)


def test_a_full_queue_refuses_only_what_it_has_no_room_for(session: Session) -> None:
    data = factories.dataset(session)
    submissions = [lifecycle.Submission(_records(data, f"r{row}"), "key_test") for row in range(3)]
    outcomes = lifecycle.record_many(
        session, submissions, digester=factories.DIGESTER, now=NOW, room=2
    )
    assert [isinstance(outcome, page.QueueFull) for outcome in outcomes] == [False, False, True]
    assert lifecycle.count_open(session, up_to=10) == 2
    assert lifecycle.count_open(session, up_to=1) == 1


@pytest.mark.parametrize(
    ("asked", "due"),
    [
        (datetime(2026, 1, 31, 8, tzinfo=UTC), datetime(2026, 2, 28, 8, tzinfo=UTC)),
        (datetime(2024, 1, 30, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC)),
        (datetime(2026, 12, 15, tzinfo=UTC), datetime(2027, 1, 15, tzinfo=UTC)),
        (datetime(2026, 11, 30, tzinfo=UTC), datetime(2026, 12, 30, tzinfo=UTC)),
    ],
)
def test_due_one_calendar_month_later(asked: datetime, due: datetime) -> None:
    assert outlook.due(asked) == due


def test_expected_by_adds_the_wait_and_two_batches_as_long_as_the_latest(
    session: Session,
) -> None:
    data = factories.dataset(session)
    model = _published(session, data, policy={"max_wait_seconds": 30})
    base = session.get_one(factories.Version, model.production_id)
    for seconds in (2, 4, 90):
        factories.batch(
            session,
            model,
            base,
            status=BatchStatus.COMPLETED,
            finished_at=NOW + timedelta(seconds=seconds),
        )
    [request] = _record(session, _records(data, "r0"))
    assert request.expected_by == NOW + timedelta(seconds=30 + 2 * 4)


def test_expected_by_foresees_the_training_that_follows_a_class(session: Session) -> None:
    data = factories.dataset(session)
    model = _published(session, data, policy={"max_wait_seconds": 30})
    ended = NOW + timedelta(seconds=500)
    factories.training_run(session, model, started_at=NOW, finished_at=ended)
    base = session.get_one(factories.Version, model.production_id)
    factories.unlearned(session, model, base, [factories.request(session, data, kind="class")])
    [request] = _record(session, _records(data, "r1"))
    assert request.expected_by == NOW + timedelta(seconds=30 + 2 * 500)


@pytest.mark.parametrize(
    ("approval", "waits"),
    [
        ({"max_records_per_request": 2}, [False, True, False]),
        ({"max_share_per_request": 0.2}, [False, True, False]),
        ({"max_records_per_day": 3}, [False, True, False]),
        ({"max_share_per_day": 0.25}, [False, True, False]),
        ({"max_records_per_day": 2}, [False, True, True]),
    ],
)
def test_large_requests_wait_for_approval(
    session: Session, approval: dict[str, Any], waits: list[bool]
) -> None:
    data = factories.dataset(session, rows=12)
    _published(session, data, policy={"approval": approval})
    made = _record(
        session,
        _records(data, "r0", "r1"),
        _records(data, "r2", "r3", "r4"),
        _records(data, "r5"),
    )
    assert [one.status == RequestStatus.AWAITING_APPROVAL for one in made] == waits
    held_back = {one.id for one in made if one.status == RequestStatus.AWAITING_APPROVAL}
    shared = set(session.scalars(select(Erasure.request_id)))
    assert shared == {one.id for one in made} - held_back


def test_the_day_counts_what_earlier_calls_asked_for(session: Session) -> None:
    data = factories.dataset(session)
    _published(session, data, policy={"approval": {"max_records_per_day": 3}})
    factories.request(session, data, rows=[0, 1], created_at=NOW - timedelta(hours=23))
    factories.request(session, data, rows=[2, 3, 4], created_at=NOW - timedelta(hours=25))
    [fits, does_not] = _record(session, _records(data, "r5"), _records(data, "r6"))
    assert fits.status == RequestStatus.ACCEPTED
    assert does_not.status == RequestStatus.AWAITING_APPROVAL


def test_the_day_does_not_count_what_was_cancelled(session: Session) -> None:
    data = factories.dataset(session)
    _published(session, data, policy={"approval": {"max_records_per_day": 2}})
    for _ in range(3):
        [one] = _record(session, _records(data, "r0", "r1"))
        assert one.status == RequestStatus.ACCEPTED
        lifecycle.cancel(session, one.id, actor="key:me")
    [kept] = _record(session, _records(data, "r2", "r3"))
    [beyond] = _record(session, _records(data, "r4"))
    assert kept.status == RequestStatus.ACCEPTED
    assert beyond.status == RequestStatus.AWAITING_APPROVAL


@pytest.mark.postgres
def test_two_processes_at_once_let_through_what_the_day_allows(postgres_database: Engine) -> None:
    """Both have counted before either commits: each stands still at the lock that comes last."""
    sessions = db.session_factory(postgres_database)
    with sessions() as setup:
        data = factories.dataset(setup, rows=40)
        _published(setup, data, policy={"approval": {"max_records_per_day": 10}})
        setup.commit()

    def ask(first: int) -> None:
        with sessions.begin() as mine:
            _record(mine, *(_records(data, f"r{row}") for row in range(first, first + 20)))

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 20)]
    with sessions.begin() as stall:
        stall.execute(select(AuditHead).with_for_update())
        for thread in threads:
            thread.start()
        _until_waiting(sessions, 2)
    for thread in threads:
        thread.join()
    with sessions() as session:
        accepted = select(DeletionRequest.id).filter_by(status=RequestStatus.ACCEPTED)
        assert len(session.scalars(accepted).all()) == 10
        assert len(session.scalars(select(DeletionRequest.id)).all()) == 40


def _until_waiting(sessions: sessionmaker[Session], count: int) -> None:
    """Wait until so many sessions wait for a lock."""
    wanted = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(6000):
        with sessions() as looking:
            if looking.execute(text(wanted)).scalar_one() >= count:
                return
        threading.Event().wait(0.01)
    raise AssertionError("nobody waits for a lock")


def _awaiting(session: Session) -> DeletionRequest:
    data = factories.dataset(session)
    _published(session, data, policy={"approval": {"max_records_per_request": 0}})
    [request] = _record(session, _records(data, "r0"))
    return request


def test_an_approved_request_gets_its_erasures(session: Session) -> None:
    request = _awaiting(session)
    assert session.scalars(select(Erasure)).all() == []
    lifecycle.approve(session, request.id, actor="key:boss", now=NOW)
    assert request.status == RequestStatus.ACCEPTED
    assert session.scalars(select(Erasure.request_id)).all() == [request.id]
    with pytest.raises(Conflict):
        lifecycle.approve(session, request.id, actor="key:boss", now=NOW)
    assert _actions(session, request) == [
        "deletion_request:awaiting_approval",
        "deletion_request:approved",
    ]


def test_a_denied_request_ends(session: Session) -> None:
    request = _awaiting(session)
    lifecycle.deny(session, request.id, because="suspicious", actor="key:boss")
    assert (request.status, request.status_reason) == (RequestStatus.DENIED, "suspicious")
    for attempt in (
        lambda: lifecycle.approve(session, request.id, actor="key:boss", now=NOW),
        lambda: lifecycle.cancel(session, request.id, actor="key:me"),
    ):
        with pytest.raises(Conflict):
            attempt()


def test_a_request_is_cancelled_until_a_worker_claims_it(session: Session) -> None:
    data = factories.dataset(session)
    model = _published(session, data)
    [free, claimed] = _record(session, _records(data, "r0"), _records(data, "r1"))
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
    with pytest.raises(Conflict):
        lifecycle.cancel(session, free.id, actor="key:me")


@pytest.mark.postgres
def test_a_cancel_that_meets_a_claim_gives_way(postgres_database: Engine) -> None:
    sessions = db.session_factory(postgres_database)
    with sessions() as setup:
        data = factories.dataset(setup)
        _published(setup, data)
        [request] = _record(setup, _records(data, "r0"))
        setup.commit()
    with sessions() as worker, sessions() as client:
        seen = lifecycle.get(client, request.id)
        share = worker.scalars(select(Erasure)).one()
        share.status = ErasureStatus.CLAIMED
        worker.get_one(DeletionRequest, request.id).status = RequestStatus.PROCESSING
        worker.commit()
        assert seen.status == RequestStatus.ACCEPTED  # as it was read, before the claim
        with pytest.raises(Conflict):
            lifecycle.cancel(client, request.id, actor="key:me")


def test_a_request_put_aside_gets_a_fresh_set_of_attempts(session: Session) -> None:
    data = factories.dataset(session)
    _published(session, data)
    [request] = _record(session, _records(data, "r0"))
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
    _published(session, data)
    [open_one] = _record(session, _records(data, "r0"))
    factories.request(session, data, status=RequestStatus.COMPLETED)
    late = _published(session, data)
    assert shares.join(session, late, data_revision=0, now=NOW) == 1
    assert shares.join(session, late, data_revision=0, now=NOW) == 0
    joined = session.scalars(select(Erasure).where(Erasure.model_id == late.id)).all()
    assert [share.request_id for share in joined] == [open_one.id]


def test_a_model_imported_without_going_live_joins_when_it_is_promoted(session: Session) -> None:
    data = factories.dataset(session)
    model = factories.model(session, data)
    version = factories.version(session, model, production=False)
    [request] = _record(session, _records(data, "r0"))
    assert _concerned(session, request) == set()
    versions.promote(
        session, model, version, expected_production=None, reason="x", actor="key:k", now=NOW
    )
    assert _concerned(session, request) == {model.id}


def test_the_list_filters_and_continues_after_a_row(session: Session) -> None:
    data, other = factories.dataset(session), factories.dataset(session)
    model = _published(session, data)
    mine = _record(session, *(_records(data, f"r{row}") for row in range(3)))
    _record(session, _records(other, "r0"), _records(other, "unknown"))

    def ids(**chosen: Any) -> list[str]:
        return [
            row["id"]
            for row in lifecycle.listing(session, lifecycle.Filter(**chosen), after=None, limit=10)
        ]

    assert ids(dataset=data.name) == ids(model=model.name) == sorted(one.id for one in mine)
    assert len(ids()) == 5
    assert len(ids(status=RequestStatus.NO_MATCH)) == 1
    assert ids(due_before=NOW) == []
    assert len(ids(due_before=NOW + timedelta(days=40))) == 5
    after = lifecycle.listing(
        session, lifecycle.Filter(), after=min(one.id for one in mine), limit=1
    )
    assert [row["id"] for row in after] == ids()[1:2]
    with pytest.raises(NotFound):
        ids(model="unknown")


def test_what_is_recorded_holds_no_subject_or_record_id(session: Session) -> None:
    data = factories.dataset(session, rows=2, subjects=["planted-person", None])
    [request, _] = _record(
        session,
        Ask(data.name, "subject", subject_id="planted-person"),
        _records(data, "planted-record"),
    )
    chain.write(session)
    written = [chain.describe(line) for line in session.scalars(select(AuditEvent))]
    shown = lifecycle.detail(session, request)
    assert len(written) == 2
    assert "planted" not in repr((written, shown))
    assert "planted" not in repr(Ask(data.name, "subject", subject_id="planted-person"))


def test_many_requests_cost_as_many_statements_as_one(session: Session) -> None:
    data = factories.dataset(session, rows=40)
    _published(session, data)
    session.commit()
    bound = session.bind
    counts = []
    for names in (["r0"], [f"r{row}" for row in range(1, 40)]):
        seen: list[str] = []
        listener = _count_statements(bound, seen)
        _record(session, *(_records(data, name) for name in names))
        session.commit()
        listener()
        counts.append(len([line for line in seen if "deletion_requests.id =" not in line]))
    assert counts[0] == counts[1]


def _count_statements(bound: Any, seen: list[str]) -> Any:

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    event.listen(bound, "before_cursor_execute", note)
    return lambda: event.remove(bound, "before_cursor_execute", note)
