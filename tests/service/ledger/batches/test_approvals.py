"""Versions that wait for an operator, and their approval."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from service.ledger.batches import approvals, claims, holds
from service.ledger.database.states import RunStatus
from service.ledger.database.tables import AliasMove, Version
from service.ledger.registry import versions
from service.ledger.training import consolidation
from tests import factories
from tests.factories import NOW
from tests.service.ledger.batches.held import Case, change_policy


def test_approval_and_the_end_do_not_both_happen(session: Session, case: Case) -> None:
    approvals.approve(session, case.model, case.version, actor="key:k", now=NOW)
    session.commit()
    claims.claim(session, case.model, held=case.held, now=case.request.due_at)
    session.commit()
    moves = session.query(AliasMove).filter_by(model_id=case.model.id).all()
    assert [move.reason for move in moves] == ["approved"]


@pytest.fixture
def aside(session: Session, case: Case) -> Version:
    """A consolidation of the model that lost accuracy and was set aside."""
    run = factories.training_run(
        session, case.model, status=RunStatus.COMPLETED, reason="consolidate", data_revision=1
    )
    return factories.version(
        session,
        case.model,
        production=False,
        origin="trained",
        data_revision=1,
        training_run_id=run.id,
        mark=holds.ACCURACY,
    )


def test_set_aside_retrain_needs_no_approval_once_a_later_one_is_live(
    session: Session, case: Case, aside: Version
) -> None:
    assert set(approvals.reasons(session, case.model, [aside])) == {aside.id}
    later = factories.version(
        session, case.model, production=False, origin="trained", data_revision=1
    )
    versions.promote(
        session,
        case.model,
        later,
        expected_production=case.base.id,
        reason="trained",
        actor="worker:w",
        now=NOW,
    )
    assert approvals.reasons(session, case.model, [aside]) == {}
    with pytest.raises(approvals.NotHeld):
        approvals.approve(session, case.model, aside, actor="key:k", now=NOW)


def test_set_aside_retrain_blocks_the_next_only_while_the_policy_holds(
    session: Session, case: Case, aside: Version
) -> None:
    def queued() -> bool:
        run = consolidation.queue(
            session, case.model, because=["drift: …"], actor="worker:w", now=NOW
        )
        return run is not None

    assert not queued()
    change_policy(session, case, on_accuracy_drop="promote")
    assert queued()
