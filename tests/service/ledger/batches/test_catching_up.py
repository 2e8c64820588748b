"""Candidates that owe deletions stay until a batch has applied them, or something replaces them."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from service.ledger.batches import claims, execution, queue
from service.ledger.database.states import RunStatus, VersionStatus
from service.ledger.database.tables import Dataset, Model, Version
from service.ledger.destruction import withdrawals
from service.ledger.registry import forgotten, versions
from tests import factories
from tests.service.ledger.batches.steps import LATER, ask, claim, unlearn


def trained_meanwhile(session: Session, model: Model) -> Version:
    """A candidate whose training began before anything was forgotten."""
    run = factories.training_run(session, model, status=RunStatus.COMPLETED, data_revision=0)
    return factories.version(
        session,
        model,
        production=False,
        status=VersionStatus.CANDIDATE,
        training_run_id=run.id,
        data_revision=0,
    )


@pytest.mark.parametrize("method", ["step", "retrain"])
def test_candidate_stays_after_a_running_batch_unless_it_retrained(
    session: Session, data: Dataset, model: Model, method: str
) -> None:
    ask(session, data, model, rows=[2])
    held, first = claim(session, model)
    unlearn(session, model, held, first)
    ask(session, data, model, rows=[3])
    batch = claims.claim(session, model, held=held, now=LATER)
    assert batch is not None
    # Left to the trainings lane; meanwhile the training ends.
    execution.leave_to_training(session, batch, tried=[], held=held)
    candidate = trained_meanwhile(session, model)
    assert forgotten.is_in(session, model, candidate)
    batch = claims.claim(session, model, held=held, now=LATER, trains=True)
    assert batch is not None
    made = unlearn(session, model, held, batch, retrained=method == "retrain")
    assert model.production_id == made.id
    if method == "retrain":
        # It never saw the records, and its training is the later one.
        assert candidate.status == VersionStatus.RETIRED
        assert queue.due_models(session, now=LATER) == []
        return
    assert candidate.status == VersionStatus.CANDIDATE
    assert queue.due_models(session, now=LATER) == [model.id]
    owing = claims.claim(session, model, held=held, now=LATER)
    assert owing is not None
    assert (owing.base_version_id, execution.rows(session, owing)) == (candidate.id, [2, 3])
    caught_up = unlearn(session, model, held, owing)
    assert model.production_id == caught_up.id
    assert candidate.status == VersionStatus.RETIRED
    assert queue.due_models(session, now=LATER) == []


def test_candidate_outlives_a_batch_without_rows_of_its_own(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model, rows=[2])
    held, first = claim(session, model)
    live = unlearn(session, model, held, first)
    candidate = trained_meanwhile(session, model)
    assert versions.retire_containing(session, model, keep=live, actor="worker:w", now=LATER) == []
    assert candidate.status == VersionStatus.CANDIDATE


def test_older_candidate_is_superseded_by_a_newer_one_that_caught_up(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model, rows=[2])
    held, first = claim(session, model)
    unlearn(session, model, held, first)
    older, newer = trained_meanwhile(session, model), trained_meanwhile(session, model)
    owing = claims.claim(session, model, held=held, now=LATER)
    assert owing is not None
    assert owing.base_version_id == newer.id
    unlearn(session, model, held, owing)
    assert {older.status, newer.status} == {VersionStatus.RETIRED}
    assert queue.due_models(session, now=LATER) == []


def test_candidate_is_retired_when_live_version_is_withdrawn_without_successor(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model, rows=[2])
    held, first = claim(session, model)
    live = unlearn(session, model, held, first)
    candidate = trained_meanwhile(session, model)
    withdrawals.withdraw_version(session, model, live, actor="key:k", now=LATER)
    assert candidate.status == VersionStatus.RETIRED
