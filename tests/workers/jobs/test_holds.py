"""An exact version that lost too much accuracy waits: for approval, the due date, a better one."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from service.errors import Conflict
from service.ledger.audit import chain
from service.ledger.batches import approvals, next_batch
from service.ledger.database.states import BatchStatus, ErasureStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import AuditEvent, Batch, DeletionRequest, Model, Version
from service.ledger.registry import versions
from service.ledger.training import runs
from tests.workers.place import Place
from workers.fault_points import InjectedFault
from workers.jobs import erase, pipeline, train

GOOD = {"epochs": 12, "learning_rate": 0.01, "alpha": 0}
POOR = {"epochs": 1, "learning_rate": 0.0005, "alpha": 0}


@pytest.fixture
def poor(town: Place) -> Place:
    """A town whose deletions are retrained with a recipe that learns next to nothing."""
    _set_recipe(town, POOR)
    town.change_policy(method="retrain", auto_consolidate=False, on_accuracy_drop="hold")
    return town


def _set_recipe(town: Place, recipe: dict[str, object]) -> None:
    with town.runtime.session() as session:
        session.scalars(select(Model)).one().recipe = recipe


def _move_due_date(town: Place, request_id: str, **ahead: float) -> None:
    """Let the request be due that long from now."""
    with town.runtime.session() as session:
        request = session.get_one(DeletionRequest, request_id)
        request.due_at = town.runtime.now() + timedelta(**ahead)


def _bring_the_end(town: Place) -> None:
    with town.runtime.session() as session:
        batch = session.scalars(select(Batch).where(Batch.status == BatchStatus.HELD)).one()
        batch.held_until = town.runtime.now() - timedelta(seconds=1)


def _actions(town: Place) -> list[str]:
    with town.runtime.session() as session:
        return list(session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)))


def _approve(town: Place, number: int) -> None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        approvals.approve(
            session,
            model,
            versions.get(session, model, number),
            actor="key:boss",
            now=town.runtime.now(),
        )


def test_a_retrain_that_lost_accuracy_is_held_and_the_old_version_stays_live(poor: Place) -> None:
    rows = poor.training_rows()[:20]
    before = poor.live()
    request = poor.ask(*rows)
    poor.work()
    assert poor.live().id == before.id
    held = poor.versions()[-1]
    assert (held.status, held.origin, held.mark) == (
        VersionStatus.CANDIDATE,
        "retrained",
        "accuracy_drop",
    )
    [batch] = poor.batches()
    assert (batch.status, batch.version_id) == (BatchStatus.HELD, held.id)
    found = poor.request(request)
    assert batch.held_until == found.due_at - timedelta(days=3)
    assert found.status == RequestStatus.PROCESSING
    assert f"version {held.number}" in str(found.status_reason)
    assert "approval" in str(found.status_reason)
    assert poor.share(request).status == ErasureStatus.CLAIMED
    erase.run_due(poor.runtime)
    assert poor.array().rows[rows].any()
    # Another look, by whichever worker, changes nothing.
    pipeline.run_due(poor.second())
    assert len(poor.versions()) == 2
    assert _actions(poor).count(chain.Action.BATCH_HELD.value) == 1


def test_approval_lets_it_go_live_at_once(poor: Place) -> None:
    rows = poor.training_rows()[:20]
    request = poor.ask(*rows)
    poor.work()
    number = poor.versions()[-1].number
    _approve(poor, number)
    assert poor.live().number == number
    assert [batch.status for batch in poor.batches()] == [BatchStatus.COMPLETED]
    erase.run_due(poor.runtime)
    found = poor.request(request)
    assert (found.status, found.status_reason) == (RequestStatus.COMPLETED, None)
    assert not poor.array().rows[rows].any()
    assert {"version:approved", "batch:completed", "version:promoted"} <= set(_actions(poor))
    _approve(poor, number)  # again: it is live already
    with pytest.raises(approvals.NotHeld):
        _approve(poor, 1)


def test_it_goes_live_by_itself_a_margin_before_it_is_due(poor: Place) -> None:
    request = poor.ask(*poor.training_rows()[:20])
    poor.work()
    number = poor.versions()[-1].number
    assert poor.live().number != number
    _bring_the_end(poor)
    poor.work()
    assert poor.live().number == number
    assert poor.request(request).status == RequestStatus.COMPLETED
    assert poor.moves()[-1].reason == "held until it was due"


@pytest.mark.parametrize("why", ["policy", "due", "margin"])
def test_nothing_is_held_where_the_policy_or_the_due_date_forbids(poor: Place, why: str) -> None:
    request = poor.ask(*poor.training_rows()[:20])
    if why == "policy":
        poor.change_policy(on_accuracy_drop="promote")
    elif why == "due":
        _move_due_date(poor, request, days=2)
    else:
        poor.change_policy(hold_margin_days=60)
    poor.work()
    assert poor.request(request).status == RequestStatus.COMPLETED
    assert (poor.live().origin, poor.live().mark) == ("retrained", "accuracy_drop")


def test_newer_deletions_wait_for_the_end_of_the_hold_and_then_go_on(poor: Place) -> None:
    rows = poor.training_rows()
    first = poor.ask(*rows[:20])
    poor.work()
    newer = poor.ask(*rows[20:30])
    poor.work()
    assert poor.share(newer).status == ErasureStatus.PENDING
    assert len(poor.batches()) == 1
    _set_recipe(poor, GOOD)
    _approve(poor, poor.versions()[-1].number)
    poor.work()
    assert poor.request(first).status == RequestStatus.COMPLETED
    assert poor.request(newer).status == RequestStatus.COMPLETED
    assert poor.forgotten() == rows[:30]


def test_a_training_that_goes_live_meanwhile_completes_the_batch(poor: Place) -> None:
    rows = poor.training_rows()[:20]
    request = poor.ask(*rows)
    poor.work()
    held = poor.versions()[-1]
    _set_recipe(poor, GOOD)
    with poor.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(session, model, seed=2, actor="key:test", now=poor.runtime.now())
    train.run_due(poor.runtime)
    trained = poor.live()
    assert trained.origin == "trained"
    poor.work()
    assert poor.live().id == trained.id
    [batch] = poor.batches()
    assert (batch.status, batch.version_id) == (BatchStatus.COMPLETED, trained.id)
    assert poor.versions()[held.number - 1].status == VersionStatus.REJECTED
    assert poor.share(request).version_id == trained.id
    assert poor.request(request).status == RequestStatus.COMPLETED
    assert not poor.array().rows[rows].any()


def test_a_version_with_the_records_that_goes_live_meanwhile_gives_the_hold_up(
    poor: Place,
) -> None:
    """By hand, to a version that still holds them: they are forgotten from that one."""
    rows = poor.training_rows()[:20]
    with poor.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(session, model, seed=2, actor="key:test", now=poor.runtime.now())
    _set_recipe(poor, GOOD)
    train.run_due(poor.runtime)
    _set_recipe(poor, POOR)
    request = poor.ask(*rows)
    poor.work()
    held = poor.versions()[-1]
    with poor.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        versions.promote(
            session,
            model,
            versions.get(session, model, 1),
            expected_production=model.production_id,
            reason="rollback",
            actor="key:test",
            now=poor.runtime.now(),
        )
    with pytest.raises(versions.ProductionMoved):
        _approve(poor, held.number)
    _set_recipe(poor, GOOD)
    poor.work()
    assert poor.versions()[held.number - 1].status in (
        VersionStatus.REJECTED,
        VersionStatus.PURGED,
    )
    assert [batch.status for batch in poor.batches()] == [
        BatchStatus.FAILED,
        BatchStatus.COMPLETED,
    ]
    assert poor.live().parent_id == poor.versions()[0].id
    assert poor.request(request).status == RequestStatus.COMPLETED
    assert poor.forgotten() == rows


def test_run_now_hurries_nothing_but_another_method_takes_the_place(poor: Place) -> None:
    request = poor.ask(*poor.training_rows()[:20])
    poor.work()
    held = poor.versions()[-1]

    def run_now(method: str | None) -> None:
        with poor.runtime.session() as session:
            next_batch.run_now(
                session,
                session.scalars(select(Model)).one(),
                method=method,
                options={},
                actor="key:test",
                now=poor.runtime.now(),
            )

    with pytest.raises(Conflict, match=":approve"):
        run_now(None)
    assert poor.batches()[0].status == BatchStatus.HELD
    poor.change_policy(on_accuracy_drop="promote")
    run_now("iau")
    assert poor.request(request).status_reason is None
    poor.work()
    assert poor.versions()[held.number - 1].status == VersionStatus.REJECTED
    assert poor.request(request).status == RequestStatus.COMPLETED
    assert poor.versions()[held.number].method == "iau"


@pytest.mark.parametrize("point", ["batch.computed", "batch.recording", "batch.recorded"])
def test_a_worker_that_dies_while_it_holds_leaves_one_held_batch(poor: Place, point: str) -> None:
    request = poor.ask(*poor.training_rows()[:20])
    poor.arm(point, "raise")
    with pytest.raises(InjectedFault):
        poor.work()
    pipeline.run_due(poor.second())
    [batch] = poor.batches()
    assert batch.status == BatchStatus.HELD
    assert poor.versions()[-1].id == batch.version_id
    assert len(poor.versions()) == 2
    _bring_the_end(poor)
    pipeline.run_due(poor.second())
    assert poor.request(request).status == RequestStatus.COMPLETED
    assert poor.live().id == batch.version_id


def _consolidate(town: Place) -> None:
    """A deletion that is stepped, and a retrain that the policy's drift budget asks for."""
    town.change_policy(drift={"max_share": 0.001}, auto_consolidate=True, on_accuracy_drop="hold")
    town.ask(*town.training_rows()[:20])
    town.work()
    assert town.live().method == "iau"
    train.run_due(town.runtime)


def test_a_retrain_that_nobody_asked_for_and_that_lost_accuracy_is_set_aside(
    town: Place,
) -> None:
    _set_recipe(town, POOR)
    _consolidate(town)
    stepped, aside = town.live(), town.versions()[-1]
    assert stepped.origin == "unlearned"
    assert (aside.origin, aside.status, aside.mark) == (
        "trained",
        VersionStatus.PUBLISHED,
        "accuracy_drop",
    )
    assert "version:set_aside" in _actions(town)
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        told = approvals.reasons(session, model, [session.get_one(Version, aside.id)])
    assert ":approve" in told[aside.id]
    # It is not done over and over: neither by the next batch nor by itself.
    town.ask(*town.training_rows()[20:22])
    town.work()
    train.consolidate_due(town.runtime)
    assert not train.run_due(town.runtime)


def test_lost_accuracy_on_retained_rows_is_enough_to_be_set_aside(town: Place) -> None:
    _set_recipe(town, POOR)
    town.change_policy(
        gates={"audit_accuracy_drop": 1.0}
    )  # as where audit rows are too few to tell
    _consolidate(town)
    assert town.live().origin == "unlearned"
    assert (town.versions()[-1].origin, town.versions()[-1].mark) == ("trained", "accuracy_drop")


def test_what_was_set_aside_goes_live_when_approved(town: Place) -> None:
    _set_recipe(town, POOR)
    _consolidate(town)
    aside = town.versions()[-1]
    _approve(town, aside.number)
    assert town.live().id == aside.id
    assert town.moves()[-1].reason == "approved"


def test_a_retrain_as_good_as_before_goes_live_by_itself(town: Place) -> None:
    # Its seed alone may cost it a point.
    town.change_policy(gates={"audit_accuracy_drop": 0.1, "retain_accuracy_drop": 0.1})
    _consolidate(town)
    assert town.live().origin == "trained"
    assert town.live().mark is None
