"""Erasures: when raw rows may be overwritten, and when a request is at its end."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.database import db
from service.ledger.database.states import (
    REQUEST_ENDS,
    BatchStatus,
    ErasureStatus,
    IllegalMove,
    RequestStatus,
    RunStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    AuditEvent,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
)
from service.ledger.obligations import completion, erasures, raw_rows, shares, without_models
from service.ledger.requests import lifecycle, lookup, suppressions
from service.ledger.selection import exclusions, naming
from tests import factories
from tests.factories import NOW


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session, rows=6)


@pytest.fixture
def model(session: Session, data: Dataset) -> Model:
    made = factories.model(session, data)
    factories.version(session, made)
    return made


def asked(session: Session, data: Dataset, *rows: int) -> DeletionRequest:
    """A request whose records were excluded when its batch was claimed."""
    request = factories.request(session, data, rows=rows, status=RequestStatus.PROCESSING)
    exclusions.exclude(session, data.id, naming.Names.of([request]))
    session.expire_all()
    return request


@pytest.mark.parametrize(
    ("status", "erasable"),
    [
        (ErasureStatus.PENDING, False),
        (ErasureStatus.CLAIMED, False),
        (ErasureStatus.NEEDS_REVIEW, False),
        (ErasureStatus.COMPLETED, True),
        (ErasureStatus.CANCELLED, True),
    ],
)
def test_raw_row_is_kept_while_an_erasure_is_open(
    session: Session, data: Dataset, model: Model, status: ErasureStatus, erasable: bool
) -> None:
    factories.erasure(session, asked(session, data, 2), model, status=status)
    assert suppressions.about_to_be_erased(session, data)[0] == ([2] if erasable else [])


def test_raw_row_is_kept_for_every_request_that_names_it(
    session: Session, data: Dataset, model: Model
) -> None:
    factories.erasure(session, asked(session, data, 2), model, status=ErasureStatus.COMPLETED)
    again = factories.erasure(session, asked(session, data, 2), model)
    assert suppressions.about_to_be_erased(session, data)[0] == []
    again.status = ErasureStatus.COMPLETED
    session.flush()
    assert suppressions.about_to_be_erased(session, data)[0] == [2]


def test_row_that_nobody_asked_to_forget_is_never_erased(
    session: Session, data: Dataset, model: Model
) -> None:
    assert suppressions.about_to_be_erased(session, data)[0] == []


@pytest.mark.parametrize(
    ("status", "revision", "erasable"),
    [
        (RunStatus.RUNNING, 0, False),  # it has seen the row
        (RunStatus.RUNNING, 1, True),  # it started without it
        (RunStatus.QUEUED, 0, True),  # it will start without it
        (RunStatus.FAILED, 0, True),
    ],
)
def test_raw_row_is_kept_while_a_training_that_saw_it_runs(
    session: Session,
    data: Dataset,
    model: Model,
    status: RunStatus,
    revision: int,
    erasable: bool,
) -> None:
    factories.training_run(session, model, status=status, data_revision=revision)
    factories.erasure(session, asked(session, data, 2), model, status=ErasureStatus.COMPLETED)
    assert suppressions.about_to_be_erased(session, data)[0] == ([2] if erasable else [])


@pytest.mark.parametrize("status", [VersionStatus.CANDIDATE, VersionStatus.REJECTED])
def test_raw_row_is_kept_while_a_fresh_anchor_has_to_catch_up(
    session: Session, data: Dataset, model: Model, status: VersionStatus
) -> None:
    factories.version(session, model, production=False, status=status, data_revision=0)
    factories.erasure(session, asked(session, data, 2), model, status=ErasureStatus.COMPLETED)
    waiting = status == VersionStatus.CANDIDATE
    assert suppressions.about_to_be_erased(session, data)[0] == ([] if waiting else [2])


def test_rows_are_marked_once_whoever_overwrote_them(
    session: Session, data: Dataset, model: Model
) -> None:
    factories.erasure(session, asked(session, data, 1, 2), model, status=ErasureStatus.COMPLETED)
    for worker in ("a", "b"):
        raw_rows.mark_erased(session, data, [1, 2], now=NOW, actor=f"worker:{worker}")
    session.commit()
    lines = session.query(AuditEvent).filter_by(action="records:erased").all()
    assert [(line.actor, line.data) for line in lines] == [("worker:a", {"rows": 2})]


def test_rows_of_a_class_stay_the_requests_when_the_clock_went_back(
    session: Session, data: Dataset
) -> None:
    session.get_one(Record, (data.id, 0)).erased_at = NOW - timedelta(hours=1)
    request = factories.request(
        session, data, rows=(), kind="class", label=0, status=RequestStatus.PROCESSING
    )
    exclusions.exclude(session, data.id, naming.Names.of([request]))
    earlier = NOW - timedelta(minutes=1)
    raw_rows.mark_erased(session, data, [3], now=earlier, actor="worker:a")
    assert lookup.rows(session, request.id) == [3]
    assert completion.settle(session, now=earlier, actor="worker:a") == [request.id]
    assert lookup.rows(session, request.id) == [3]


def test_request_ends_when_every_share_is_done_and_every_row_is_erased(
    session: Session, data: Dataset, model: Model
) -> None:
    request = asked(session, data, 1, 2)
    share = factories.erasure(session, request, model)
    assert completion.settle(session, now=NOW, actor="w") == []
    share.status = ErasureStatus.COMPLETED
    session.flush()
    assert completion.settle(session, now=NOW, actor="w") == []
    raw_rows.mark_erased(session, data, [1], now=NOW, actor="w")
    assert completion.settle(session, now=NOW, actor="w") == []
    raw_rows.mark_erased(session, data, [2], now=NOW, actor="w")
    assert completion.settle(session, now=NOW, actor="w") == [request.id]
    assert completion.settle(session, now=NOW, actor="w") == []
    assert (request.status, request.completed_at) == (RequestStatus.COMPLETED, NOW)


@pytest.mark.postgres
def test_request_that_another_worker_completes_at_this_moment_is_no_move(
    postgres_database: Engine,
) -> None:
    """The second finds it ready, and then locked: it has nothing to say in the audit chain."""
    with db.session_factory(postgres_database).begin() as session:
        data = factories.dataset(session, rows=6)
        request = asked(session, data, 2)
        raw_rows.mark_erased(session, data, [2], now=NOW, actor="w")
        request_id = request.id
    begin = db.session_factory(postgres_database).begin
    with begin() as first:
        assert completion.settle(first, now=NOW, actor="w1") == [request_id]
        with begin() as second:
            assert completion.settle(second, now=NOW, actor="w2") == []


def test_request_without_models_is_excluded_and_settled(session: Session, data: Dataset) -> None:
    request = factories.request(session, data, rows=[3])
    assert without_models.datasets(session, now=NOW) == [data.id]
    assert without_models.exclude(session, data.id, now=NOW, actor="worker:w") == [request.id]
    assert without_models.datasets(session, now=NOW) == []
    session.refresh(data)
    assert (request.status, data.revision) == (RequestStatus.PROCESSING, 1)
    assert suppressions.about_to_be_erased(session, data)[0] == [3]
    raw_rows.mark_erased(session, data, [3], now=NOW, actor="w")
    assert completion.settle(session, now=NOW, actor="w") == [request.id]


@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.QUEUED])
def test_share_of_a_model_whose_only_training_ended_is_needless(
    session: Session, data: Dataset, status: RunStatus
) -> None:
    """Otherwise the request would wait for ever for a model that knows nothing."""
    model = factories.model(session, data)
    run = factories.training_run(session, model, status=RunStatus.RUNNING)
    request = factories.request(session, data, rows=[3])
    factories.erasure(session, request, model)
    assert without_models.datasets(session, now=NOW) == []
    run.status = status
    session.flush()
    assert without_models.datasets(session, now=NOW) == [data.id]
    assert without_models.exclude(session, data.id, now=NOW, actor="worker:w") == [request.id]
    assert session.query(Erasure).count() == 0


def test_excluding_a_request_without_models_and_cancelling_it_exclude_each_other(
    database: Engine,
) -> None:
    sessions = db.session_factory(database)
    with sessions() as session, session.begin():
        data = factories.dataset(session, rows=8)
        ids = [factories.request(session, data, rows=[row]).id for row in range(8)]
    start = threading.Barrier(2)
    cancelled = []

    def cancel() -> None:
        start.wait()
        for request_id in reversed(ids):
            try:
                with sessions() as mine, mine.begin():
                    lifecycle.cancel(mine, request_id, actor="key:k")
                cancelled.append(request_id)
            except Conflict:
                pass

    thread = threading.Thread(target=cancel)
    thread.start()
    start.wait()
    with sessions() as session, session.begin():
        for dataset_id in without_models.datasets(session, now=NOW):
            without_models.exclude(session, dataset_id, now=NOW, actor="worker:w")
    thread.join()
    with sessions() as session:
        for row, request_id in enumerate(ids):
            status = session.get_one(DeletionRequest, request_id).status
            excluded = session.get_one(Record, (1, row)).excluded_revision is not None
            if request_id in cancelled:
                assert (status, excluded) == (RequestStatus.CANCELLED, False)
            else:
                assert status in (RequestStatus.PROCESSING, RequestStatus.ACCEPTED)
                assert excluded == (status == RequestStatus.PROCESSING)


def test_completed_share_never_moves_again(session: Session, data: Dataset, model: Model) -> None:
    share = factories.erasure(
        session, asked(session, data, 1), model, status=ErasureStatus.COMPLETED
    )
    with pytest.raises(IllegalMove):
        erasures.release(share)
    with pytest.raises(IllegalMove):
        erasures.claim(session, model, [share], batch_id="b_1")


def test_erasures_of_a_batch_are_found_where_its_members_lie(
    session: Session, data: Dataset, model: Model
) -> None:
    base = factories.version(session, model)
    made = [
        factories.erasure(session, asked(session, data, row), model, id=id)
        for row, id in enumerate((3, 4, 90, 1000, 1001, 5000))
    ]
    members = [made[n] for n in (0, 2, 3, 5)]
    batch = factories.batch(session, model, base, members=erasures.ranges(members))
    for share in members:
        share.batch_id = batch.id
    session.flush()
    assert batch.members == [[3, 90], [1000, 1000], [5000, 5000]]
    found = session.scalars(select(Erasure).where(erasures.of_batch(batch)).order_by(Erasure.id))
    assert found.all() == members
    nobodys = factories.batch(session, model, base, members=[], status=BatchStatus.FAILED)
    assert session.scalars(select(Erasure).where(erasures.of_batch(nobodys))).all() == []


def test_erasures_of_a_batch_are_found_however_far_apart_their_ids_are(
    session: Session, data: Dataset, model: Model
) -> None:
    # As on a dataset with many models: each request has an erasure on every one of them.
    places = [n * 200 + n % 7 for n in range(1, 1500)]
    members = [Erasure(id=place) for place in places]
    ends = erasures.ranges(members)
    assert ends == sorted(ends)
    assert all(any(first <= one <= last for first, last in ends) for one in places)
    batch = factories.batch(session, model, factories.version(session, model), members=ends)
    share = factories.erasure(
        session, asked(session, data, 0), model, id=places[700], batch_id=batch.id
    )
    assert session.scalars(select(Erasure).where(erasures.of_batch(batch))).all() == [share]


@pytest.mark.parametrize("state", list(ErasureStatus))
def test_database_knows_which_erasures_are_open(
    session: Session, data: Dataset, model: Model, state: ErasureStatus
) -> None:
    factories.erasure(session, asked(session, data, 0), model, status=state)
    assert session.scalar(select(Erasure.is_open)) == (state in shares.OPEN)


@pytest.mark.parametrize("state", list(RequestStatus))
def test_database_knows_which_requests_are_open(
    session: Session, data: Dataset, state: RequestStatus
) -> None:
    factories.request(session, data, status=state)
    assert session.scalar(select(DeletionRequest.is_open)) == (state not in REQUEST_ENDS)
