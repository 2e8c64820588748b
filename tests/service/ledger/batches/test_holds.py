"""Held batches in the ledger, on both databases."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from service.ledger.audit import canonical
from service.ledger.batches import approvals, claims, execution, holds, leases, next_batch, queue
from service.ledger.database.states import (
    BatchStatus,
    ErasureStatus,
    RequestStatus,
    RunStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    AliasMove,
    AuditEvent,
    Batch,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    Version,
)
from service.ledger.destruction import withdrawals
from service.ledger.registry import versions
from service.ledger.registry.policy import Policy
from service.ledger.reports import measurements
from service.ledger.requests import lookup
from service.ledger.selection import record_lists
from service.ledger.training import consolidation
from tests import factories
from tests.factories import NOW
from tests.service import announcements

WHO: dict[str, Any] = {"actor": "key:k", "now": NOW}


@dataclass
class Story:
    """A model whose batch on version 1 forgets row 0 and is held with version 2."""

    model: Model
    base: Version
    version: Version
    batch: Batch
    request: DeletionRequest
    held: leases.Held


@pytest.fixture
def story(session: Session) -> Story:
    """An exact version that lost accuracy."""
    return _held(session, mark=holds.ACCURACY)


@pytest.fixture
def memorised(session: Session) -> Story:
    """A step whose few rows the base version has memorised; the policy has no other method."""
    return _held(session, mark=holds.MEMORISED)


def _held(session: Session, *, mark: str) -> Story:
    data = factories.dataset(session, rows=10, revision=1)
    session.get_one(Record, (data.id, 0)).excluded_revision = 1
    policy = Policy(max_wait_seconds=0, max_records=4).model_dump(mode="json")
    model = factories.model(session, data, name="own", policy=policy)
    base = factories.version(session, model)
    asked = factories.request(session, data, rows=[0], status=RequestStatus.PROCESSING)
    held = _lease(session, model)
    batch = factories.batch(session, model, base, rows=[0], fence=held.fence)
    factories.erasure(session, asked, model, status=ErasureStatus.CLAIMED, batch_id=batch.id)
    exact = mark == holds.ACCURACY
    version = factories.version(
        session,
        model,
        production=False,
        origin="retrained" if exact else "unlearned",
        status=VersionStatus.CANDIDATE,
        data_revision=1 if exact else base.data_revision,
        batch_id=batch.id,
        published_at=None,
        **({} if exact else {"parent_id": base.id, "anchor_id": base.id}),
    )
    until = holds.until(session, batch, Policy.model_validate(model.policy), mark=mark)
    assert until == asked.due_at - timedelta(days=3)
    holds.hold(session, model, batch, version, until=until, held=held, mark=mark)
    session.commit()
    return Story(model, base, version, batch, asked, held)


def _lease(session: Session, model: Model) -> leases.Held:
    held = leases.acquire(session, leases.of_model(model.id), owner="w", seconds=3600, now=NOW)
    assert held is not None
    return held


def test_a_held_batch_is_due_only_when_there_is_something_to_decide(
    session: Session, story: Story
) -> None:
    assert queue.due_models(session, now=NOW) == []
    assert claims.claim(session, story.model, held=story.held, now=NOW) is None
    assert story.batch.status == BatchStatus.HELD
    assert story.batch.held_until is not None
    assert queue.due_models(session, now=story.batch.held_until) == [story.model.id]


def test_end_of_hold_promotes_version_and_completes_erasure(session: Session, story: Story) -> None:
    then = story.request.due_at
    assert claims.claim(session, story.model, held=story.held, now=then) is None
    session.commit()
    assert story.model.production_id == story.version.id
    assert story.batch.status == BatchStatus.COMPLETED
    assert story.base.status == VersionStatus.RETIRED
    assert queue.due_models(session, now=then) == []


def test_newer_erasures_wait_for_the_end(session: Session, story: Story) -> None:
    data_id = story.model.dataset_id
    data = session.get_one(Dataset, data_id)
    newer = factories.request(session, data, rows=[4])
    factories.erasure(session, newer, story.model)
    assert claims.claim(session, story.model, held=story.held, now=NOW) is None
    assert newer.status == RequestStatus.ACCEPTED
    until = canonical.moment(story.request.due_at - timedelta(days=3))
    assert (
        f"version 2, which is held, is approved or goes live by itself at {until}"
        in (lookup.detail(session, newer)["status_reason"])
    )
    then = story.request.due_at
    batch = claims.claim(session, story.model, held=story.held, now=then)
    assert batch is not None
    assert batch.base_version_id == story.version.id
    assert lookup.detail(session, newer)["status_reason"] is None


def test_live_import_without_the_records_completes_the_batch(
    session: Session, story: Story
) -> None:
    other = factories.version(
        session, story.model, origin="imported", data_revision=1, production=False
    )
    versions.promote(
        session,
        story.model,
        other,
        expected_production=story.base.id,
        reason="imported",
        actor="worker:w",
        now=NOW,
    )
    assert queue.due_models(session, now=NOW) == [story.model.id]
    assert claims.claim(session, story.model, held=story.held, now=NOW) is None
    session.commit()
    assert (story.batch.status, story.batch.version_id) == (BatchStatus.COMPLETED, other.id)
    assert story.version.status == VersionStatus.REJECTED
    assert measurements.reasons(session, [other]) == {}


def test_rollback_to_a_version_that_holds_other_rows_of_a_request_forgets_them_too(
    session: Session,
) -> None:
    # One person's rows: row 0 trained the base, which was imported with a list of its own, and row
    # 1 the version before it.
    data = factories.dataset(session, rows=10, splits=[2] + [0] * 8 + [2], labels=[0] * 10)
    policy = Policy(max_wait_seconds=0).model_dump(mode="json")
    model = factories.model(session, data, policy=policy)
    first = factories.version(session, model)
    listed = record_lists.create(session, data, [f"r{n}" for n in (0, *range(2, 9))], **WHO)
    base = factories.version(session, model, origin="imported", record_list_id=listed.id)
    request = factories.request(session, data, rows=[0, 1])
    factories.erasure(session, request, model)
    held = _lease(session, model)
    batch = claims.claim(session, model, held=held, now=NOW)
    assert batch is not None
    assert execution.rows(session, batch) == [0]
    version = factories.version(
        session,
        model,
        production=False,
        status=VersionStatus.CANDIDATE,
        origin="unlearned",
        parent_id=base.id,
        anchor_id=base.id,
        record_list_id=listed.id,
        batch_id=batch.id,
    )
    until = NOW + timedelta(days=9)
    holds.hold(session, model, batch, version, until=until, held=held, mark=holds.MEMORISED)
    versions.promote(
        session,
        model,
        first,
        expected_production=base.id,
        reason="rollback",
        actor="key:k",
        now=NOW,
    )
    following = claims.claim(session, model, held=held, now=NOW)
    assert batch.status == BatchStatus.FAILED
    assert following is not None
    assert (following.base_version_id, execution.rows(session, following)) == (first.id, [1])


def test_approval_and_the_end_do_not_both_happen(session: Session, story: Story) -> None:
    approvals.approve(session, story.model, story.version, actor="key:k", now=NOW)
    session.commit()
    claims.claim(session, story.model, held=story.held, now=story.request.due_at)
    session.commit()
    moves = session.query(AliasMove).filter_by(model_id=story.model.id).all()
    assert [move.reason for move in moves] == ["approved"]


def test_a_batch_without_requests_of_its_own_is_never_held(session: Session, story: Story) -> None:
    alone = factories.batch(session, story.model, story.base, rows=[1], status=BatchStatus.FAILED)
    assert holds.until(session, alone, Policy()) is None
    assert holds.until(session, story.batch, Policy(on_accuracy_drop="promote")) is None


def test_a_withdrawn_model_leaves_nothing_held(session: Session, story: Story) -> None:
    withdrawals.withdraw_model(session, story.model, actor="key:k", now=NOW)
    session.commit()
    assert story.batch.status == BatchStatus.FAILED
    assert story.version.status == VersionStatus.WITHDRAWN
    assert queue.due_models(session, now=story.request.due_at) == []


def test_a_held_version_that_is_withdrawn_gives_the_hold_up(session: Session, story: Story) -> None:
    withdrawals.withdraw_version(session, story.model, story.version, actor="key:k", now=NOW)
    session.commit()
    assert queue.due_models(session, now=NOW) == [story.model.id]
    batch = claims.claim(session, story.model, held=story.held, now=NOW)
    assert story.batch.status == BatchStatus.FAILED
    assert batch is not None
    assert batch.base_version_id == story.base.id


# Records that the base version has memorised.


def _newer(session: Session, story: Story, *, rows: list[int], **columns: object) -> Erasure:
    data = session.get_one(Dataset, story.model.dataset_id)
    asked = factories.request(session, data, rows=rows, **columns)
    return factories.erasure(session, asked, story.model)


def test_step_on_memorised_records_says_what_it_waits_for(
    session: Session, memorised: Story
) -> None:
    reason = str(memorised.request.status_reason)
    assert "memorised" in reason
    assert canonical.moment(memorised.request.due_at - timedelta(days=3)) in reason
    shown = approvals.reasons(session, memorised.model, [memorised.version])[memorised.version.id]
    assert "memorised" in shown
    assert "accuracy" not in shown + reason
    assert memorised.version.mark == "memorised"


def test_newer_request_makes_one_batch_with_memorised_records(
    session: Session, memorised: Story
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
    session: Session, memorised: Story
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
    session: Session, memorised: Story, why: str
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
    session: Session, memorised: Story, how: str
) -> None:
    now = NOW
    if how == "approved":
        approvals.approve(session, memorised.model, memorised.version, actor="key:k", now=now)
    else:
        if how == "policy":
            _change_policy(session, memorised, on_accuracy_drop="promote")
            assert queue.due_models(session, now=now) == []
            _change_policy(session, memorised, on_memorised="promote")
        else:
            now = memorised.request.due_at
        assert queue.due_models(session, now=now) == [memorised.model.id]
        assert claims.claim(session, memorised.model, held=memorised.held, now=now) is None
    session.commit()
    assert memorised.model.production_id == memorised.version.id
    assert memorised.batch.status == BatchStatus.COMPLETED
    assert memorised.version.mark == "memorised"


# Holds whose reason goes while they last.


def _change_policy(session: Session, story: Story, **changes: object) -> None:
    announcements.announce(session)
    next_batch.change_policy(session, story.model, changes, actor="key:k", now=NOW)
    session.commit()


def _held_lines(session: Session) -> int:
    return session.query(AuditEvent).filter_by(action="batch:held").count()


def test_policy_that_holds_nothing_any_more_lets_it_go_live(session: Session, story: Story) -> None:
    _change_policy(session, story, on_accuracy_drop="promote")
    assert queue.due_models(session, now=NOW) == [story.model.id]
    assert claims.claim(session, story.model, held=story.held, now=NOW) is None
    session.commit()
    assert story.model.production_id == story.version.id
    assert story.batch.status == BatchStatus.COMPLETED
    [move] = session.query(AliasMove).filter_by(model_id=story.model.id).all()
    assert move.reason == "the policy holds nothing any more"


def test_policy_that_changed_its_mind_holds_it_as_before(session: Session, story: Story) -> None:
    ends = story.batch.held_until
    _change_policy(session, story, on_accuracy_drop="promote")
    assert story.batch.held_until == NOW
    _change_policy(session, story, on_accuracy_drop="hold")
    assert story.batch.held_until == ends
    assert queue.due_models(session, now=NOW) == []


@pytest.mark.parametrize("days", [1.0, 10.0, 365.0])
def test_another_margin_moves_the_end_and_says_so(
    session: Session, story: Story, days: float
) -> None:
    _change_policy(session, story, hold_margin_days=days)
    ends = story.request.due_at - timedelta(days=days)
    session.refresh(story.batch)
    session.refresh(story.request)
    assert story.batch.held_until == ends
    assert canonical.moment(ends) in str(story.request.status_reason)
    assert _held_lines(session) == 2
    assert bool(queue.due_models(session, now=NOW)) == (ends <= NOW)


def test_other_changes_of_the_policy_leave_the_end_alone(session: Session, story: Story) -> None:
    ends = story.batch.held_until
    _change_policy(session, story, max_records=7)
    assert story.batch.held_until == ends
    assert _held_lines(session) == 1


def test_due_date_that_passed_while_nobody_worked_ends_it(session: Session, story: Story) -> None:
    late = story.request.due_at + timedelta(days=30)
    assert queue.due_models(session, now=late) == [story.model.id]
    assert claims.claim(session, story.model, held=story.held, now=late) is None
    session.commit()
    assert story.model.production_id == story.version.id


@pytest.mark.parametrize("successor", [False, True])
def test_base_that_is_withdrawn_gives_the_hold_up(
    session: Session, story: Story, successor: bool
) -> None:
    clean = None
    if successor:
        clean = factories.version(
            session, story.model, origin="trained", data_revision=1, production=False
        )
    withdrawals.withdraw_version(
        session, story.model, story.base, successor=clean, actor="key:k", now=NOW
    )
    session.commit()
    assert story.batch.status == BatchStatus.FAILED
    assert story.version.status == VersionStatus.REJECTED
    assert story.request.status_reason is None
    share = session.query(Erasure).filter_by(request_id=story.request.id).one()
    if not successor:  # nothing is live that holds the records
        assert share.status == ErasureStatus.COMPLETED
        assert queue.due_models(session, now=NOW) == []
        return
    held = _lease(session, story.model)
    batch = claims.claim(session, story.model, held=held, now=NOW)
    assert clean is not None
    assert batch is not None
    assert (batch.base_version_id, execution.rows(session, batch)) == (clean.id, [])


def test_dataset_that_is_withdrawn_with_its_models_leaves_nothing_held(
    session: Session, story: Story
) -> None:
    data = session.get_one(Dataset, story.model.dataset_id)
    with pytest.raises(withdrawals.ModelsInUse):
        withdrawals.withdraw_dataset(session, data, actor="key:k", now=NOW)
    assert story.batch.status == BatchStatus.HELD
    withdrawals.withdraw_dataset(session, data, models="withdraw", actor="key:k", now=NOW)
    session.commit()
    assert story.batch.status == BatchStatus.FAILED
    assert story.version.status == VersionStatus.WITHDRAWN
    assert story.request.status_reason is None
    assert queue.due_models(session, now=story.request.due_at) == []


@pytest.fixture
def aside(session: Session, story: Story) -> Version:
    """A consolidation of the model that lost accuracy and was set aside."""
    run = factories.training_run(
        session, story.model, status=RunStatus.COMPLETED, reason="consolidate", data_revision=1
    )
    return factories.version(
        session,
        story.model,
        production=False,
        origin="trained",
        data_revision=1,
        training_run_id=run.id,
        mark=holds.ACCURACY,
    )


def test_set_aside_retrain_needs_no_approval_once_a_later_one_is_live(
    session: Session, story: Story, aside: Version
) -> None:
    assert set(approvals.reasons(session, story.model, [aside])) == {aside.id}
    later = factories.version(
        session, story.model, production=False, origin="trained", data_revision=1
    )
    versions.promote(
        session,
        story.model,
        later,
        expected_production=story.base.id,
        reason="trained",
        actor="worker:w",
        now=NOW,
    )
    assert approvals.reasons(session, story.model, [aside]) == {}
    with pytest.raises(approvals.NotHeld):
        approvals.approve(session, story.model, aside, actor="key:k", now=NOW)


def test_set_aside_retrain_blocks_the_next_only_while_the_policy_holds(
    session: Session, story: Story, aside: Version
) -> None:
    def queued() -> bool:
        run = consolidation.queue(
            session, story.model, because=["drift: …"], actor="worker:w", now=NOW
        )
        return run is not None

    assert not queued()
    _change_policy(session, story, on_accuracy_drop="promote")
    assert queued()
