"""Withdrawals of datasets: their rows are destroyed, and their requests complete."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, Withdrawn
from service.ledger.audit import chain
from service.ledger.batches import leases
from service.ledger.database.states import DatasetStatus, ErasureStatus, ModelStatus, RequestStatus
from service.ledger.database.tables import (
    Dataset,
    Model,
    Record,
    RequestDataset,
    RequestRecord,
    Version,
)
from service.ledger.destruction import removals, withdrawals
from service.ledger.obligations import completion
from service.ledger.registry import datasets, models
from service.ledger.requests import intake
from service.ledger.selection.matching import Ask
from tests import factories
from tests.factories import NOW
from tests.service.ledger.destruction.withdrawing import (
    POLICY,
    actions,
    asked,
    excluded,
    held,
    shares,
    withdraw,
    work,
)


def test_dataset_with_models_is_refused_by_their_names(
    session: Session, data: Dataset, model: Model
) -> None:
    gone = factories.model(session, data, name="gone")
    withdraw(session, gone)
    with pytest.raises(withdrawals.ModelsInUse, match=r"not withdrawn: reader;"):
        withdraw(session, data)
    withdraw(session, data, models="withdraw")
    assert data.status == DatasetStatus.WITHDRAWN
    assert models.status(model) == ModelStatus.WITHDRAWN
    withdraw(session, data)
    assert actions(session).count(("dataset:withdrawn", "dataset:faces")) == 1


def test_every_open_request_of_a_withdrawn_dataset_completes_when_its_rows_are_gone(
    session: Session, data: Dataset, model: Model, live: Version
) -> None:
    open_ones = [
        asked(session, data, rows=[0], status=RequestStatus.AWAITING_APPROVAL),
        asked(session, data, model, rows=[1]),
        asked(
            session,
            data,
            model,
            rows=[2],
            status=RequestStatus.NEEDS_REVIEW,
            share=ErasureStatus.NEEDS_REVIEW,
        ),
    ]
    ended = factories.request(session, data, rows=[3], status=RequestStatus.CANCELLED)
    withdraw(session, data, models="withdraw")
    assert {one.status for one in open_ones} == {RequestStatus.PROCESSING}
    assert completion.settle(session, now=NOW, actor="worker:w") == []
    assert removals.blank(session, data.id, first=0, marker="m-", now=NOW)
    assert not removals.blank(session, data.id, first=10_000, marker="m-", now=NOW)
    assert len(completion.settle(session, now=NOW, actor="worker:w")) == 3
    for _ in range(2):
        removals.record(session, data.id, receipt={"a": 1}, actor="worker:w", now=NOW)
    session.expire_all()
    assert {one.status for one in open_ones} == {RequestStatus.COMPLETED}
    assert ended.status == RequestStatus.CANCELLED
    assert (data.status, data.purged_at, data.array_key) == (DatasetStatus.PURGED, NOW, None)
    assert actions(session).count(("dataset:purged", "dataset:faces")) == 1


def test_request_over_two_datasets_ends_with_the_last_of_them(
    session: Session, data: Dataset, model: Model, live: Version
) -> None:
    other = factories.dataset(session, name="voices")
    owner = factories.model(session, other, policy=POLICY)
    factories.version(session, owner)
    wide = factories.request(session, data, rows=[0], dataset_id=None, kind="subject")
    session.add(RequestRecord(request_id=wide.id, dataset_id=other.id, row=4))
    for one in (data, other):
        session.add(
            RequestDataset(request_id=wide.id, dataset_id=one.id, matched=1, already_forgotten=0)
        )
    for one in (model, owner):
        factories.erasure(session, wide, one)
    # A worker has begun with the part of the other dataset, and nobody with this one.
    work(session, owner)
    assert (excluded(session, data), excluded(session, other)) == (set(), {4})
    withdraw(session, model)
    assert shares(session, wide)["reader"] == ErasureStatus.COMPLETED
    assert excluded(session, data) == {0}
    withdraw(session, data)
    assert wide.status == RequestStatus.PROCESSING
    removals.blank(session, data.id, first=0, marker="m-", now=NOW)
    assert completion.settle(session, now=NOW, actor="worker:w") == []
    withdraw(session, other, models="withdraw")
    removals.blank(session, other.id, first=0, marker="m-", now=NOW)
    assert completion.settle(session, now=NOW, actor="worker:w") == [wide.id]


def test_request_over_two_datasets_that_waits_for_approval_waits_for_the_other(
    session: Session, data: Dataset
) -> None:
    other = factories.dataset(session, name="voices")
    factories.dataset(session, name="gaits")  # which holds nothing of the request
    waiting = RequestStatus.AWAITING_APPROVAL
    wide = factories.request(
        session, data, rows=[0], dataset_id=None, kind="subject", status=waiting
    )
    session.add(RequestRecord(request_id=wide.id, dataset_id=other.id, row=4))
    for one in (data, other):
        session.add(
            RequestDataset(request_id=wide.id, dataset_id=one.id, matched=1, already_forgotten=0)
        )
    withdraw(session, data)
    assert wide.status == waiting
    withdraw(session, other)
    assert wide.status == RequestStatus.PROCESSING


def test_records_of_a_removed_dataset_identify_nobody(session: Session) -> None:
    data = factories.dataset(session, rows=3, subjects=["ada", "bob", None])
    withdraw(session, data)
    for marker in ("one-", "two-"):  # the first worker was killed
        removals.blank(session, data.id, first=0, marker=marker, now=NOW)
    session.expire_all()
    records = session.scalars(select(Record).order_by(Record.row)).all()
    assert [one.record_id for one in records] == ["two-0", "two-1", "two-2"]
    assert {one.subject_digest for one in records} == {None}
    assert {one.erased_at for one in records} == {NOW}


def test_withdrawn_dataset_takes_no_requests_no_models_and_no_second_life(
    session: Session, data: Dataset
) -> None:
    withdraw(session, data)
    with pytest.raises(Withdrawn, match="dataset faces was withdrawn"):
        intake.record(
            session,
            Ask(dataset="faces", kind="records", record_ids=("r1",)),
            principal="key_test",
            digester=factories.DIGESTER,
            now=NOW,
        )
    with pytest.raises(Withdrawn, match="dataset faces was withdrawn"):
        datasets.get_ready(session, "faces")
    with pytest.raises(Conflict, match="which was withdrawn; a name is not used twice"):
        datasets.create(session, "faces", source={"path": "x"}, actor="key:k", now=NOW)


@pytest.mark.parametrize("status", [DatasetStatus.INGESTING, DatasetStatus.FAILED])
def test_dataset_that_never_was_ready_can_be_withdrawn_and_its_ingest_is_stopped(
    session: Session, status: DatasetStatus
) -> None:
    data = factories.dataset(session, rows=0, status=status, array_key=None, ready_at=None)
    lease = held(session, leases.of_ingest(data.id))
    withdraw(session, data)
    assert data.status == DatasetStatus.WITHDRAWN
    assert datasets.waiting(session) == []
    with pytest.raises(leases.LeaseLost):
        leases.hold(session, lease)


def test_everything_that_was_withdrawn_leaves_a_sound_chain(
    session: Session, data: Dataset, model: Model, live: Version
) -> None:
    asked(session, data, model)
    withdraw(session, data, models="withdraw", purge="now")
    session.commit()
    assert chain.verify(session).sound
    assert session.scalars(select(RequestRecord.row)).all() == [0]
