"""Held batches in the ledger, on both databases."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from service.ledger import claims, holds, leases, measurements, versions, withdrawals
from service.ledger.policy import Policy
from service.ledger.states import (
    BatchStatus,
    ErasureStatus,
    RequestStatus,
    VersionStatus,
)
from service.ledger.tables import AliasMove, Batch, Dataset, DeletionRequest, Model, Record, Version
from tests import factories
from tests.factories import NOW


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
    data = factories.dataset(session, rows=10, revision=1)
    session.get_one(Record, (data.id, 0)).excluded_revision = 1
    policy = Policy(max_wait_seconds=0).model_dump(mode="json")
    model = factories.model(session, data, name="own", policy=policy)
    base = factories.version(session, model)
    asked = factories.request(session, data, rows=[0], status=RequestStatus.PROCESSING)
    held = _lease(session, model)
    batch = factories.batch(session, model, base, rows=[0], fence=held.fence)
    factories.erasure(session, asked, model, status=ErasureStatus.CLAIMED, batch_id=batch.id)
    version = factories.version(
        session,
        model,
        production=False,
        origin="retrained",
        status=VersionStatus.CANDIDATE,
        data_revision=1,
        batch_id=batch.id,
        published_at=None,
    )
    until = holds.until(session, batch, Policy.model_validate(model.policy))
    assert until == asked.due_at - timedelta(days=3)
    holds.hold(session, model, batch, version, until=until, held=held)
    session.commit()
    return Story(model, base, version, batch, asked, held)


def _lease(session: Session, model: Model) -> leases.Held:
    held = leases.acquire(session, leases.of_model(model.id), owner="w", seconds=3600, now=NOW)
    assert held is not None
    return held


def test_a_held_batch_is_due_only_when_there_is_something_to_decide(
    session: Session, story: Story
) -> None:
    assert claims.due_models(session, now=NOW) == []
    assert claims.claim(session, story.model, held=story.held, now=NOW) is None
    assert story.batch.status == BatchStatus.HELD
    assert story.batch.held_until is not None
    assert claims.due_models(session, now=story.batch.held_until) == [story.model.id]


def test_its_end_makes_the_version_live_and_completes_the_erasure(
    session: Session, story: Story
) -> None:
    then = story.request.due_at
    assert claims.claim(session, story.model, held=story.held, now=then) is None
    session.commit()
    assert story.model.production_id == story.version.id
    assert story.batch.status == BatchStatus.COMPLETED
    assert story.base.status == VersionStatus.RETIRED
    assert claims.due_models(session, now=then) == []


def test_newer_erasures_wait_for_the_end(session: Session, story: Story) -> None:
    data_id = story.model.dataset_id
    data = session.get_one(Dataset, data_id)
    newer = factories.request(session, data, rows=[4])
    factories.erasure(session, newer, story.model)
    assert claims.claim(session, story.model, held=story.held, now=NOW) is None
    assert newer.status == RequestStatus.ACCEPTED
    then = story.request.due_at
    batch = claims.claim(session, story.model, held=story.held, now=then)
    assert batch is not None
    assert batch.base_version_id == story.version.id


def test_an_import_without_the_records_that_goes_live_completes_the_batch(
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
    assert claims.due_models(session, now=NOW) == [story.model.id]
    assert claims.claim(session, story.model, held=story.held, now=NOW) is None
    session.commit()
    assert (story.batch.status, story.batch.version_id) == (BatchStatus.COMPLETED, other.id)
    assert story.version.status == VersionStatus.REJECTED
    assert measurements.reasons(session, [other]) == {}


def test_approval_and_the_end_do_not_both_happen(session: Session, story: Story) -> None:
    holds.approve(session, story.model, story.version, actor="key:k", now=NOW)
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
    assert claims.due_models(session, now=story.request.due_at) == []


def test_a_held_version_that_is_withdrawn_gives_the_hold_up(session: Session, story: Story) -> None:
    withdrawals.withdraw_version(session, story.model, story.version, actor="key:k", now=NOW)
    session.commit()
    assert claims.due_models(session, now=NOW) == [story.model.id]
    batch = claims.claim(session, story.model, held=story.held, now=NOW)
    assert story.batch.status == BatchStatus.FAILED
    assert batch is not None
    assert batch.base_version_id == story.base.id
