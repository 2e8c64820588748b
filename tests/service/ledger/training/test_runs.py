"""Training runs in the ledger."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from service.errors import Unprocessable
from service.ledger.database import db
from service.ledger.database.states import IllegalMove, RunStatus
from service.ledger.database.tables import AuditEvent, Model, TrainingRun
from service.ledger.training import asked, run_states, runs
from service.ledger.training.runs import RunActive
from tests import factories
from tests.factories import NOW


@pytest.fixture
def model(session: Session) -> Model:
    made = factories.model(session, factories.dataset(session), name="reader")
    session.commit()
    return made


def _create(session: Session, model: Model) -> TrainingRun:
    return runs.create(session, model, actor="key:k", now=NOW)


def test_a_run_goes_from_queued_to_completed(session: Session, model: Model) -> None:
    run = _create(session, model)
    assert (run.status, run.reason, run.attempts) == (RunStatus.QUEUED, "initial", 0)
    runs.start(session, run, data_revision=4, actor="worker:w", now=NOW)
    assert (run.status, run.data_revision, run.attempts) == (RunStatus.RUNNING, 4, 1)
    runs.progress(session, run.id, {"fraction": 0.5, "epoch": 2})
    session.refresh(run)
    assert run.progress == {"fraction": 0.5, "epoch": 2}
    made = factories.version(session, model, training_run_id=run.id)
    later = NOW + timedelta(minutes=1)
    runs.complete(session, run, made, actor="worker:w", now=later, epochs=4)
    session.commit()
    assert (run.status, run.finished_at) == ("completed", later)
    assert run.progress == {"fraction": 1.0, "epoch": 4, "epochs": 4}
    assert runs.version_numbers(session, [run]) == {run.id: 1}
    actions = session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq))
    assert list(actions) == [f"training_run:{word}" for word in ("queued", "started", "completed")]


def test_run_keeps_the_revision_that_was_given_for_it(session: Session, model: Model) -> None:
    run = runs.create(session, model, data_revision=0, actor="key:k", now=NOW)
    assert asked.revision(run) == 0
    for revision in (4, 5):
        runs.start(session, run, data_revision=revision, actor="worker:w", now=NOW)
        runs.compared(session, run, {"revision": revision, "rows": {"retain": 0}})
        runs.hand_back(session, run, actor="worker:w", error="no luck")
        assert run.set_changes == {"asked": 0, "revision": revision, "rows": {"retain": 0}}
        assert run.data_revision == revision
    queued = session.scalars(select(AuditEvent).order_by(AuditEvent.seq)).first()
    assert queued is not None
    assert queued.data["asked_revision"] == 0


def test_revision_that_the_dataset_has_not_reached_is_refused(
    session: Session, model: Model
) -> None:
    with pytest.raises(Unprocessable, match="is at revision") as refused:
        runs.create(session, model, data_revision=1_000, actor="key:k", now=NOW)
    assert refused.value.extra["field"] == "data_revision"
    assert session.scalars(select(TrainingRun)).all() == []


def test_a_finished_run_changes_no_more(session: Session, model: Model) -> None:
    run = _create(session, model)
    with pytest.raises(IllegalMove):
        runs.complete(session, run, factories.version(session, model), actor="w", now=NOW)
    runs.fail(session, run, error="no rows", actor="worker:w", now=NOW)
    assert (run.status, run.error, run.finished_at) == (RunStatus.FAILED, "no rows", NOW)
    runs.progress(session, run.id, {"fraction": 0.9})
    runs.draw(session, run.id, {"epochs": []})
    session.refresh(run)
    assert (run.progress, run.curve) == ({}, None)
    with pytest.raises(IllegalMove):
        runs.start(session, run, data_revision=0, actor="worker:w", now=NOW)
    with pytest.raises(IllegalMove):
        runs.hand_back(session, run, actor="worker:w")
    assert _create(session, model).id != run.id


def test_a_failed_attempt_counts_and_a_stopped_one_does_not(session: Session, model: Model) -> None:
    run = _create(session, model)
    runs.start(session, run, data_revision=0, actor="worker:w", now=NOW)
    runs.hand_back(session, run, actor="worker:w", because="the worker is stopping")
    assert (run.status, run.attempts, run.error) == (RunStatus.QUEUED, 0, None)
    runs.start(session, run, data_revision=0, actor="worker:w", now=NOW)
    pause = NOW + timedelta(seconds=2)
    runs.hand_back(session, run, actor="worker:w", not_before=pause, error="out of memory")
    assert (run.attempts, run.not_before, run.error) == (1, pause, "out of memory")
    assert not runs.one_waits(session, now=NOW)
    assert runs.one_waits(session, now=pause)
    # Set back: the pause would last for as long as the clock was ahead.
    assert runs.one_waits(session, now=NOW - timedelta(hours=5))
    # A worker that died leaves the run running: the next one starts it anew.
    runs.start(session, run, data_revision=1, actor="worker:v", now=NOW)
    runs.start(session, run, data_revision=2, actor="worker:u", now=NOW)
    assert (run.attempts, run.data_revision, run.not_before) == (3, 2, None)


def test_kept_state_is_gone_on_from_on_the_same_rows(session: Session, model: Model) -> None:
    run = _create(session, model)
    runs.start(session, run, data_revision=3, actor="worker:w", now=NOW)
    runs.progress(session, run.id, {"epoch": 7})
    runs.draw(session, run.id, {"epochs": [1]})
    assert run_states.keep(session, run, digest="a" * 64) is None
    assert run_states.keep(session, run, digest="b" * 64) == "a" * 64  # which is to be destroyed
    runs.hand_back(session, run, actor="worker:w", because="the worker is stopping")
    assert run_states.can_resume(session, run)
    changes = {"revision": 5, "rows": {}}
    runs.compared(session, run, changes)
    runs.start(session, run, data_revision=3, resume=True, actor="worker:v", now=NOW)
    runs.compared(session, run, {"revision": 6, "rows": {}})
    assert (run.data_revision, run.progress, run.state_digest) == (3, {"epoch": 7}, "b" * 64)
    assert (run.curve, run.set_changes) == ({"epochs": [1]}, changes)
    runs.start(session, run, data_revision=5, actor="worker:u", now=NOW)
    assert (run.data_revision, run.progress, run.state_digest) == (5, {}, None)
    assert (run.curve, run.set_changes) == (None, None)
    assert not run_states.can_resume(session, run)


def test_worker_of_a_cancelled_run_finds_it_ended(database: Engine) -> None:
    """It read the run before somebody cancelled it."""
    sessions = db.session_factory(database)
    with sessions.begin() as session:
        model = factories.model(session, factories.dataset(session))
        run_id = _create(session, model).id
        runs.start(
            session,
            session.get_one(TrainingRun, run_id),
            data_revision=0,
            actor="worker:w",
            now=NOW,
        )
    with sessions() as worker:
        mine = worker.get_one(TrainingRun, run_id)
        worker.commit()  # and reads on without a transaction
        with sessions.begin() as session:
            runs.cancel(session, session.get_one(TrainingRun, run_id), actor="key:k", now=NOW)
        for change in (
            lambda: run_states.keep(worker, mine, digest="c" * 64),
            lambda: runs.hand_back(worker, mine, actor="worker:w"),
            lambda: runs.fail(worker, mine, error="late", actor="worker:w", now=NOW),
        ):
            with pytest.raises(IllegalMove, match="cancelled"):
                change()
            worker.rollback()
    with sessions() as session:
        assert session.get_one(TrainingRun, run_id).status == RunStatus.CANCELLED
        assert runs.has_ended(session, run_id)


def test_state_of_an_ended_run_is_listed_until_it_is_destroyed(
    session: Session, model: Model
) -> None:
    run = _create(session, model)
    runs.start(session, run, data_revision=0, actor="worker:w", now=NOW)
    run_states.keep(session, run, digest="d" * 64)
    assert run_states.left(session) == []
    runs.cancel(session, run, actor="key:k", now=NOW)
    assert run_states.left(session) == [(run.id, "d" * 64)]
    run_states.destroyed(session, run, digest="d" * 64, actor="worker:w")
    assert run_states.left(session) == []
    actions = session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)).all()
    assert actions[-2:] == ["training_run:cancelled", "training_run:state_destroyed"]


def test_the_database_itself_allows_one_active_run_per_model(database: Engine) -> None:
    sessions = db.session_factory(database)
    with sessions() as session:
        model_id = factories.model(session, factories.dataset(session)).id
        other_id = factories.model(session, factories.dataset(session)).id
        session.commit()
    start = threading.Barrier(4)
    outcomes: list[str] = []

    def queue(which: int) -> None:
        start.wait()
        with sessions() as session:
            model = session.get_one(Model, which)
            try:
                runs.create(session, model, actor="key:k", now=NOW)
                session.commit()
                outcomes.append("queued")
            except RunActive:
                outcomes.append("refused")

    threads = [
        threading.Thread(target=queue, args=(which,))
        for which in (model_id, model_id, model_id, other_id)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["queued", "queued", "refused", "refused"]
    with sessions() as session:
        found = session.scalars(select(TrainingRun)).all()
        assert {run.model_id for run in found} == {model_id, other_id}


def test_the_audit_chain_says_who_queued_it(session: Session, model: Model) -> None:
    run = _create(session, model)
    session.commit()
    line = session.scalars(select(AuditEvent)).one()
    assert (line.actor, line.subject) == ("key:k", "model:reader")
    assert line.data == {"training_run": run.id, "reason": "initial"}
