"""Kept states of batches in the ledger, on both databases."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from sqlalchemy.orm import Session

from service.ledger.batches import batch_states, execution, leases
from service.ledger.database.states import BatchStatus, ErasureStatus, RequestStatus
from service.ledger.database.tables import AuditEvent, Batch, BatchState, Dataset, Model, Record
from service.ledger.destruction import stored_files
from service.ledger.requests import suppressions
from tests import factories
from tests.factories import NOW

RETRAIN = {"method": "retrain", "options": {}}


@dataclass
class Story:
    """A batch that is retrained under a lease; it forgets row 0."""

    data: Dataset
    model: Model
    batch: Batch
    held: leases.Held

    def keep(self, session: Session, digest: str, revision: int = 1) -> str | None:
        return batch_states.keep(
            session,
            self.batch,
            held=self.held,
            digest=digest * 64,
            method=RETRAIN,
            seed=7,
            data_revision=revision,
        )

    def exclude(self, session: Session, row: int) -> Record:
        self.data.revision += 1
        record = session.get_one(Record, (self.data.id, row))
        record.excluded_revision = self.data.revision
        session.flush()
        return record


@pytest.fixture
def story(session: Session) -> Story:
    data = factories.dataset(session, rows=10, revision=1)
    session.get_one(Record, (data.id, 0)).excluded_revision = 1
    model = factories.model(session, data, name="own")
    base = factories.version(session, model)
    held = leases.acquire(session, leases.of_model(model.id), owner="w", seconds=3600, now=NOW)
    assert held is not None
    batch = factories.batch(session, model, base, rows=[0], fence=held.fence)
    asked = factories.request(session, data, rows=[0], status=RequestStatus.PROCESSING)
    factories.erasure(session, asked, model, status=ErasureStatus.CLAIMED, batch_id=batch.id)
    session.commit()
    return Story(data, model, batch, held)


def test_state_replaces_the_one_before_and_counts_attempts_again(
    session: Session, story: Story
) -> None:
    story.batch.attempts = 2
    assert story.keep(session, "a") is None
    assert story.batch.attempts == 1
    assert story.keep(session, "b") == "a" * 64
    assert story.keep(session, "b") is None
    found = batch_states.resumable(session, story.batch, RETRAIN)
    assert found is not None
    assert (found.digest, found.seed, found.data_revision) == ("b" * 64, 7, 1)
    assert stored_files.files_in_use(session)["trainings"] == {"b" * 64}


def test_state_of_other_options_is_not_gone_on_from(session: Session, story: Story) -> None:
    story.keep(session, "a")
    other = {"method": "retrain", "options": {"epochs": 3}}
    assert batch_states.resumable(session, story.batch, other) is None


def test_row_excluded_since_is_kept_and_its_erasure_ends_the_state(
    session: Session, story: Story
) -> None:
    story.keep(session, "a")
    record = story.exclude(session, 5)
    assert 5 not in suppressions.about_to_be_erased(session, story.data)[0]
    assert [one.digest for one in batch_states.that_saw_forgotten(session, story.model)] == [
        "a" * 64
    ]
    assert batch_states.resumable(session, story.batch, RETRAIN) is not None
    record.erased_at = NOW
    session.flush()
    assert batch_states.resumable(session, story.batch, RETRAIN) is None


@pytest.mark.parametrize("end", ["stopped", "completed", "held", "given up"])
def test_state_of_a_batch_that_ended_is_left_to_be_destroyed(
    session: Session, story: Story, end: str
) -> None:
    story.keep(session, "a")
    story.exclude(session, 5)
    assert batch_states.left(session) == []
    if end == "stopped":
        execution.stop(session, story.batch, because="withdrawn", actor="key:k", now=NOW)
    elif end == "given up":
        batch_states.give_up(session)
    else:
        story.batch.status = BatchStatus(end)
        session.flush()
    assert batch_states.left(session) == [(story.batch.id, "a" * 64)]
    assert 5 in suppressions.about_to_be_erased(session, story.data)[0]
    for _ in range(2):  # the second time nothing happens
        batch_states.destroyed(session, story.batch.id, digest="a" * 64, actor="worker:w")
    session.commit()
    assert session.get(BatchState, story.batch.id) is None
    lines = session.query(AuditEvent).filter_by(action="batch:state_destroyed").all()
    assert [line.subject for line in lines] == [f"batch:{story.batch.id}"]


def test_worker_that_lost_the_batch_notes_nothing(session: Session, story: Story) -> None:
    leases.revoke(session, leases.of_model(story.model.id), now=NOW)
    with pytest.raises(leases.LeaseLost):
        story.keep(session, "a")
    assert batch_states.of(session, story.batch.id) is None
