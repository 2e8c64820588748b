"""Held batches in the ledger, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from service.ledger.audit import canonical
from service.ledger.batches import claims, execution, holds, leases, queue
from service.ledger.database.states import BatchStatus, ErasureStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import AliasMove, AuditEvent, Dataset, Erasure
from service.ledger.destruction import withdrawals
from service.ledger.registry import versions
from service.ledger.registry.policy import Policy
from service.ledger.reports import measurements
from service.ledger.requests import lookup
from service.ledger.selection import record_lists
from tests import factories
from tests.factories import NOW
from tests.service.ledger.batches.held import WHO, Case, change_policy, lease


def test_a_held_batch_is_due_only_when_there_is_something_to_decide(
    session: Session, case: Case
) -> None:
    assert queue.due_models(session, now=NOW) == []
    assert claims.claim(session, case.model, held=case.held, now=NOW) is None
    assert case.batch.status == BatchStatus.HELD
    assert case.batch.held_until is not None
    assert queue.due_models(session, now=case.batch.held_until) == [case.model.id]


def test_end_of_hold_promotes_version_and_completes_erasure(session: Session, case: Case) -> None:
    then = case.request.due_at
    assert claims.claim(session, case.model, held=case.held, now=then) is None
    session.commit()
    assert case.model.production_id == case.version.id
    assert case.batch.status == BatchStatus.COMPLETED
    assert case.base.status == VersionStatus.RETIRED
    assert queue.due_models(session, now=then) == []


def test_only_a_running_batch_is_held(session: Session, case: Case) -> None:
    until = case.batch.held_until
    with pytest.raises(leases.LeaseLost):
        holds.hold(session, case.model, case.batch, case.version, until=NOW, held=case.held)
    assert (case.batch.status, case.batch.held_until) == (BatchStatus.HELD, until)


def test_newer_erasures_wait_for_the_end(session: Session, case: Case) -> None:
    data_id = case.model.dataset_id
    data = session.get_one(Dataset, data_id)
    newer = factories.request(session, data, rows=[4])
    factories.erasure(session, newer, case.model)
    assert claims.claim(session, case.model, held=case.held, now=NOW) is None
    assert newer.status == RequestStatus.ACCEPTED
    until = canonical.moment(case.request.due_at - timedelta(days=3))
    assert (
        f"version 2, which is held, is approved or goes live by itself at {until}"
        in (lookup.detail(session, newer)["status_reason"])
    )
    then = case.request.due_at
    batch = claims.claim(session, case.model, held=case.held, now=then)
    assert batch is not None
    assert batch.base_version_id == case.version.id
    assert lookup.detail(session, newer)["status_reason"] is None


def test_live_import_without_the_records_completes_the_batch(session: Session, case: Case) -> None:
    other = factories.version(
        session, case.model, origin="imported", data_revision=1, production=False
    )
    versions.promote(
        session,
        case.model,
        other,
        expected_production=case.base.id,
        reason="imported",
        actor="worker:w",
        now=NOW,
    )
    assert queue.due_models(session, now=NOW) == [case.model.id]
    assert claims.claim(session, case.model, held=case.held, now=NOW) is None
    session.commit()
    assert (case.batch.status, case.batch.version_id) == (BatchStatus.COMPLETED, other.id)
    assert case.version.status == VersionStatus.REJECTED
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
    held = lease(session, model)
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


def test_a_batch_without_requests_of_its_own_is_never_held(session: Session, case: Case) -> None:
    alone = factories.batch(session, case.model, case.base, rows=[1], status=BatchStatus.FAILED)
    assert holds.until(session, alone, Policy()) is None
    assert holds.until(session, case.batch, Policy(on_accuracy_drop="promote")) is None


def test_a_withdrawn_model_leaves_nothing_held(session: Session, case: Case) -> None:
    withdrawals.withdraw_model(session, case.model, actor="key:k", now=NOW)
    session.commit()
    assert case.batch.status == BatchStatus.FAILED
    assert case.version.status == VersionStatus.WITHDRAWN
    assert queue.due_models(session, now=case.request.due_at) == []


def test_a_held_version_that_is_withdrawn_gives_the_hold_up(session: Session, case: Case) -> None:
    withdrawals.withdraw_version(session, case.model, case.version, actor="key:k", now=NOW)
    session.commit()
    assert queue.due_models(session, now=NOW) == [case.model.id]
    batch = claims.claim(session, case.model, held=case.held, now=NOW)
    assert case.batch.status == BatchStatus.FAILED
    assert batch is not None
    assert batch.base_version_id == case.base.id


def _held_lines(session: Session) -> int:
    return session.query(AuditEvent).filter_by(action="batch:held").count()


def test_policy_that_holds_nothing_any_more_lets_it_go_live(session: Session, case: Case) -> None:
    change_policy(session, case, on_accuracy_drop="promote")
    assert queue.due_models(session, now=NOW) == [case.model.id]
    assert claims.claim(session, case.model, held=case.held, now=NOW) is None
    session.commit()
    assert case.model.production_id == case.version.id
    assert case.batch.status == BatchStatus.COMPLETED
    [move] = session.query(AliasMove).filter_by(model_id=case.model.id).all()
    assert move.reason == "the policy holds nothing any more"


def test_policy_that_changed_its_mind_holds_it_as_before(session: Session, case: Case) -> None:
    ends = case.batch.held_until
    change_policy(session, case, on_accuracy_drop="promote")
    assert case.batch.held_until == NOW
    change_policy(session, case, on_accuracy_drop="hold")
    assert case.batch.held_until == ends
    assert queue.due_models(session, now=NOW) == []


@pytest.mark.parametrize("days", [0.0, 1.0, 10.0, 365.0])
def test_another_margin_moves_the_end_and_says_so(
    session: Session, case: Case, days: float
) -> None:
    change_policy(session, case, hold_margin_days=days)
    ends = case.request.due_at - timedelta(days=days)
    session.refresh(case.batch)
    session.refresh(case.request)
    assert case.batch.held_until == ends
    assert canonical.moment(ends) in str(case.request.status_reason)
    assert _held_lines(session) == 2
    assert bool(queue.due_models(session, now=NOW)) == (ends <= NOW)


def test_other_changes_of_the_policy_leave_the_end_alone(session: Session, case: Case) -> None:
    ends = case.batch.held_until
    change_policy(session, case, max_records=7)
    assert case.batch.held_until == ends
    assert _held_lines(session) == 1


def test_due_date_that_passed_while_nobody_worked_ends_it(session: Session, case: Case) -> None:
    late = case.request.due_at + timedelta(days=30)
    assert queue.due_models(session, now=late) == [case.model.id]
    assert claims.claim(session, case.model, held=case.held, now=late) is None
    session.commit()
    assert case.model.production_id == case.version.id


@pytest.mark.parametrize("successor", [False, True])
def test_base_that_is_withdrawn_gives_the_hold_up(
    session: Session, case: Case, successor: bool
) -> None:
    clean = None
    if successor:
        clean = factories.version(
            session, case.model, origin="trained", data_revision=1, production=False
        )
    withdrawals.withdraw_version(
        session, case.model, case.base, successor=clean, actor="key:k", now=NOW
    )
    session.commit()
    assert case.batch.status == BatchStatus.FAILED
    assert case.version.status == VersionStatus.REJECTED
    assert case.request.status_reason is None
    share = session.query(Erasure).filter_by(request_id=case.request.id).one()
    if not successor:  # nothing is live that holds the records
        assert share.status == ErasureStatus.COMPLETED
        assert queue.due_models(session, now=NOW) == []
        return
    held = lease(session, case.model)
    batch = claims.claim(session, case.model, held=held, now=NOW)
    assert clean is not None
    assert batch is not None
    assert (batch.base_version_id, execution.rows(session, batch)) == (clean.id, [])


def test_dataset_that_is_withdrawn_with_its_models_leaves_nothing_held(
    session: Session, case: Case
) -> None:
    data = session.get_one(Dataset, case.model.dataset_id)
    with pytest.raises(withdrawals.ModelsInUse):
        withdrawals.withdraw_dataset(session, data, actor="key:k", now=NOW)
    assert case.batch.status == BatchStatus.HELD
    withdrawals.withdraw_dataset(session, data, models="withdraw", actor="key:k", now=NOW)
    session.commit()
    assert case.batch.status == BatchStatus.FAILED
    assert case.version.status == VersionStatus.WITHDRAWN
    assert case.request.status_reason is None
    assert queue.due_models(session, now=case.request.due_at) == []
