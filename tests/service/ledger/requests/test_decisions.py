"""Who decides and when: a second person, reasons in codes, and time to change one's mind."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.batches import claims, leases, queue
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import AuditEvent, Dataset, DeletionRequest, Erasure, Model
from service.ledger.obligations import shares
from service.ledger.registry.policy import Policy
from service.ledger.requests import intake, lifecycle, lookup
from service.ledger.requests.lifecycle import DenialReason, SecondPersonNeeded
from service.ledger.selection.matching import Ask
from tests import factories
from tests.factories import NOW


def live(session: Session, data: Dataset, **policy: object) -> Model:
    made = factories.model(session, data, policy=policy)
    factories.version(session, made)
    return made


def ask(session: Session, data: Dataset, record: str = "r1") -> DeletionRequest:
    receipt = intake.record(
        session,
        Ask(data.name, "records", record_ids=(record,)),
        principal="key_crm",
        digester=factories.DIGESTER,
        now=NOW,
    )
    session.commit()
    return lookup.get(session, receipt.answer["id"])


def begins(session: Session, model: Model, *, after: float) -> bool:
    """Whether a worker claims a batch of the model so many seconds after ``NOW``."""
    now = NOW + timedelta(seconds=after)
    if model.id not in queue.due_models(session, now=now):
        return False
    held = leases.acquire(session, leases.of_model(model.id), owner="w", seconds=30, now=now)
    assert held is not None
    return claims.claim(session, model, held=held, now=now) is not None


@pytest.mark.parametrize("days", [1 / 24, 1, 14])
def test_nothing_begins_in_the_undo_window_and_it_can_be_cancelled(
    session: Session, days: float
) -> None:
    data = factories.dataset(session)
    window = days * 86_400
    model = live(session, data, hold_seconds=window, max_wait_seconds=0.0)
    undone, kept = ask(session, data, "r1"), ask(session, data, "r2")
    assert kept.expected_by >= NOW + timedelta(days=days)
    model.run_now_at = NOW  # not even for a batch that is asked for
    session.commit()
    for after in (0, 1, window / 2, window - 1):
        assert not begins(session, model, after=after)
    lifecycle.cancel(session, undone.id, actor="key:key_crm")
    session.commit()
    assert begins(session, model, after=window)
    assert session.get_one(DeletionRequest, kept.id).status == RequestStatus.PROCESSING
    assert undone.status == RequestStatus.CANCELLED


def test_the_longest_undo_window_of_a_policy_is_waited_for() -> None:
    longest = Policy.model_json_schema()["properties"]["hold_seconds"]["maximum"]
    assert timedelta(seconds=longest) == shares.LONGEST_UNDO


def test_of_several_models_the_longest_window_counts(session: Session) -> None:
    data = factories.dataset(session)
    quick = live(session, data, max_wait_seconds=0.0)
    live(session, data, hold_seconds=600.0)
    ask(session, data)
    assert not begins(session, quick, after=599)
    assert begins(session, quick, after=600)


def test_a_model_that_goes_live_in_the_window_does_not_end_it(session: Session) -> None:
    data = factories.dataset(session)
    live(session, data, hold_seconds=3600.0)
    request = ask(session, data)
    quick = live(session, data, max_wait_seconds=0.0)
    assert shares.join(session, quick, data_revision=0, now=NOW + timedelta(seconds=60)) == 1
    session.commit()
    assert not begins(session, quick, after=3599)
    assert request.status == RequestStatus.ACCEPTED
    assert begins(session, quick, after=3600)


def test_the_window_of_an_approved_request_begins_with_the_approval(session: Session) -> None:
    data = factories.dataset(session)
    limit = {"max_records_per_request": 0}
    model = live(session, data, hold_seconds=600.0, max_wait_seconds=0.0, approval=limit)
    request = ask(session, data)
    assert request.status == RequestStatus.AWAITING_APPROVAL
    lifecycle.approve(session, request.id, actor="key:boss", now=NOW + timedelta(seconds=900))
    session.commit()
    assert not begins(session, model, after=1499)
    assert begins(session, model, after=1500)


def test_without_a_window_a_request_begins_at_once(session: Session) -> None:
    data = factories.dataset(session)
    model = live(session, data, max_wait_seconds=0.0)
    ask(session, data)
    assert session.scalars(select(Erasure.not_before)).all() == [None]
    assert begins(session, model, after=0)


@pytest.mark.parametrize("second_person", [True, False])
def test_a_policy_may_ask_for_another_key_to_approve(session: Session, second_person: bool) -> None:
    data = factories.dataset(session)
    live(session, data, approval={"max_records_per_request": 0, "second_person": second_person})
    request = ask(session, data)
    if second_person:
        with pytest.raises(SecondPersonNeeded, match="another key"):
            lifecycle.approve(session, request.id, actor="key:key_crm", now=NOW)
        session.rollback()
        assert request.status == RequestStatus.AWAITING_APPROVAL
    actor = "key:key_dpo" if second_person else "key:key_crm"
    lifecycle.approve(session, request.id, actor=actor, now=NOW)
    assert request.status == RequestStatus.ACCEPTED


def test_a_denial_has_a_code_that_the_audit_chain_keeps(session: Session) -> None:
    data = factories.dataset(session)
    live(session, data, approval={"max_records_per_request": 0})
    request = ask(session, data)
    lifecycle.deny(
        session,
        request.id,
        because="the books of 2025 must be kept",
        code=DenialReason.LEGAL_OBLIGATION,
        actor="key:key_dpo",
    )
    session.commit()
    shown = lookup.detail(session, request)
    assert shown["denial_code"] == "legal_obligation"
    assert "books of 2025" in shown["status_reason"]
    line = session.scalars(select(AuditEvent).order_by(AuditEvent.seq.desc()).limit(1)).one()
    assert (line.action, line.data["because"]) == ("deletion_request:denied", "legal_obligation")
    assert "books" not in str(line.data)
