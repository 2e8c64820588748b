"""Batches: who may run one, what it forgets, and how a fresh anchor catches up."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.ledger.batches import claims, execution, leases, queue
from service.ledger.database.states import (
    BatchStatus,
    ErasureStatus,
    RequestStatus,
    RunStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    AuditEvent,
    BatchRecord,
    Dataset,
    Model,
    Record,
    Version,
)
from service.ledger.obligations import completion, raw_rows
from service.ledger.registry import forgotten
from service.ledger.requests import lookup
from tests import factories
from tests.service.ledger.batches.steps import LATER, RETRY, ask, claim, status, unlearn

# Who may run it.


def test_no_second_batch_while_one_runs(session: Session, data: Dataset, model: Model) -> None:
    """The holder finds its own batch again; a newcomer does not even get the lease."""
    ask(session, data, model)
    held, batch = claim(session, model)
    later = ask(session, data, model, rows=[1])
    assert claims.claim(session, model, held=held, now=LATER).id == batch.id
    key = leases.of_model(model.id)
    assert leases.acquire(session, key, owner="w2", seconds=30, now=LATER) is None
    assert status(session, later)[1] == [ErasureStatus.PENDING]


def test_database_itself_refuses_a_second_running_batch(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model)
    _, batch = claim(session, model)
    base = session.get_one(Version, batch.base_version_id)
    with pytest.raises(IntegrityError):
        factories.batch(session, model, base)


def test_requests_that_arrive_while_a_batch_runs_go_to_the_next(
    session: Session, data: Dataset, model: Model
) -> None:
    early = ask(session, data, model, rows=[0])
    held, batch = claim(session, model)
    late = ask(session, data, model, rows=[1])
    version = unlearn(session, model, held, batch)
    assert status(session, early)[1] == [ErasureStatus.COMPLETED]
    assert status(session, late)[1] == [ErasureStatus.PENDING]
    following = claims.claim(session, model, held=held, now=LATER)
    assert execution.rows(session, following) == [1]
    assert following.base_version_id == version.id


def test_batch_of_a_dead_worker_is_taken_over_as_it_stands(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model)
    first, batch = claim(session, model)
    ask(session, data, model, rows=[1])
    second, taken = claim(session, model, owner="w2", now=LATER + timedelta(seconds=31))
    assert taken.id == batch.id
    assert taken.fence == second.fence > first.fence
    assert taken.attempts == 2
    assert execution.rows(session, taken) == [0]


@pytest.mark.parametrize("deed", ["complete", "fail", "hand back"])
def test_worker_that_was_overtaken_can_do_nothing_to_the_batch(
    session: Session, data: Dataset, model: Model, deed: str
) -> None:
    request = ask(session, data, model)
    first, batch = claim(session, model)
    claim(session, model, owner="w2", now=LATER + timedelta(seconds=31))
    act = {
        "complete": lambda: unlearn(session, model, first, batch),
        "fail": lambda: execution.fail(
            session, batch, held=first, error="x", retry=RETRY, now=LATER
        ),
        "hand back": lambda: execution.hand_back(
            session, batch, held=first, because="x", now=LATER
        ),
    }[deed]
    with pytest.raises(leases.LeaseLost):
        act()
    assert batch.status == BatchStatus.RUNNING
    assert status(session, request)[1] == [ErasureStatus.CLAIMED]


def test_batch_is_completed_once(session: Session, data: Dataset, model: Model) -> None:
    ask(session, data, model)
    held, batch = claim(session, model)
    unlearn(session, model, held, batch)
    with pytest.raises(leases.LeaseLost):
        unlearn(session, model, held, batch)


# What it forgets.


def test_record_named_by_two_requests_is_forgotten_once(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model, rows=[0, 1])
    held, batch = claim(session, model)
    second = ask(session, data, model, rows=[1, 2])
    unlearn(session, model, held, batch)
    following = claims.claim(session, model, held=held, now=LATER)
    assert execution.rows(session, following) == [2]
    unlearn(session, model, held, following)
    assert status(session, second)[1] == [ErasureStatus.COMPLETED]


def test_records_outside_the_training_split_are_not_unlearned(session: Session) -> None:
    data = factories.dataset(session, rows=3, splits=[0, 1, 2])
    model = factories.model(session, data)
    factories.version(session, model)
    ask(session, data, model, rows=[0, 1, 2])
    _, batch = claim(session, model)
    assert execution.rows(session, batch) == [0]
    excluded = session.query(Record.row).filter(Record.excluded_revision.is_not(None))
    assert sorted(row for (row,) in excluded) == [0, 1, 2]


def test_each_model_of_the_dataset_forgets_for_itself(session: Session, data: Dataset) -> None:
    """Exclusion by the first model's batch must not hide the record from the second's."""
    models = [factories.model(session, data) for _ in range(2)]
    for one in models:
        factories.version(session, one)
    request = ask(session, data, *models, rows=[3])
    for one in models:
        held, batch = claim(session, one)
        assert execution.rows(session, batch) == [3]
        unlearn(session, one, held, batch)
    assert status(session, request)[1] == [ErasureStatus.COMPLETED] * 2


# Anchors that were trained while deletions were completed.


def test_fresh_anchor_catches_up_before_it_goes_live(
    session: Session, data: Dataset, model: Model
) -> None:
    run = factories.training_run(
        session, model, status=RunStatus.RUNNING, data_revision=data.revision
    )
    ask(session, data, model, rows=[2, 3])
    held, batch = claim(session, model)
    live = unlearn(session, model, held, batch)
    run.status = RunStatus.COMPLETED
    candidate = factories.version(
        session,
        model,
        production=False,
        status=VersionStatus.CANDIDATE,
        training_run_id=run.id,
        data_revision=0,
    )
    assert forgotten.requests_in(session, model, candidate) != []
    assert queue.due_models(session, now=LATER) == [model.id]
    catching_up = claims.claim(session, model, held=held, now=LATER)
    assert catching_up.base_version_id == candidate.id
    assert execution.rows(session, catching_up) == [2, 3]
    assert model.production_id == live.id
    unlearn(session, model, held, catching_up)
    assert session.get_one(Version, candidate.id).status == VersionStatus.RETIRED
    assert queue.due_models(session, now=LATER) == []


def test_anchor_that_cannot_catch_up_is_rejected_and_old_version_stays_live(
    session: Session, data: Dataset, model: Model
) -> None:
    run = factories.training_run(session, model)
    ask(session, data, model, rows=[2])
    held, batch = claim(session, model)
    live = unlearn(session, model, held, batch)
    candidate = factories.version(
        session,
        model,
        production=False,
        status=VersionStatus.CANDIDATE,
        training_run_id=run.id,
        data_revision=0,
    )
    for _ in range(RETRY.max_attempts):
        batch = claims.claim(session, model, held=held, now=LATER)
        execution.fail(session, batch, held=held, error="boom", retry=RETRY, now=LATER)
    assert candidate.status == VersionStatus.REJECTED
    assert model.production_id == live.id
    assert queue.due_models(session, now=LATER) == []


def test_every_step_leaves_its_line_in_the_audit_chain(
    session: Session, data: Dataset, model: Model
) -> None:
    request = ask(session, data, model)
    held, batch = claim(session, model)
    execution.fail(session, batch, held=held, error="x", retry=RETRY, now=LATER)
    later = LATER + timedelta(seconds=5)
    batch = claims.claim(session, model, held=held, now=later)
    unlearn(session, model, held, batch, now=later)
    raw_rows.mark_erased(session, data, [0], now=later, actor="worker:w")
    completion.settle(session, now=later, actor="worker:w")
    session.commit()
    actions = [row.action for row in session.query(AuditEvent).order_by(AuditEvent.seq)]
    for action in (
        "batch:claimed",
        "batch:failed",
        "batch:completed",
        "version:registered",
        "version:promoted",
        "version:retired",
        "records:erased",
        "deletion_request:completed",
    ):
        assert action in actions
    assert status(session, request)[0] == RequestStatus.COMPLETED
    about = lookup.events(session, request.id, after=None, limit=10)
    assert [line.action for line in about] == ["batch:claimed", "deletion_request:completed"]
    assert about[0].subject == f"batch:{batch.id}"
    assert about[0].data["requests"] == [request.id]


def test_rows_of_a_batch_are_listed_when_it_has_a_version(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model, rows=[3, 1])
    held, batch = claim(session, model)
    listed = select(BatchRecord.row).where(BatchRecord.batch_id == batch.id)
    assert (batch.rows, session.scalars(listed).all()) == ([1, 3], [])
    unlearn(session, model, held, batch)
    assert (batch.rows, sorted(session.scalars(listed))) == (None, [1, 3])
    assert execution.rows(session, batch) == [1, 3]
