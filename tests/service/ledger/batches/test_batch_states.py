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
class Case:
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
def case(session: Session) -> Case:
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
    return Case(data, model, batch, held)


def test_state_replaces_the_one_before_and_counts_attempts_again(
    session: Session, case: Case
) -> None:
    case.batch.attempts = 2
    assert case.keep(session, "a") is None
    assert case.batch.attempts == 1
    assert case.keep(session, "b") == "a" * 64
    assert case.keep(session, "b") is None
    found = batch_states.resumable(session, case.batch, RETRAIN)
    assert found is not None
    assert (found.digest, found.seed, found.data_revision) == ("b" * 64, 7, 1)
    assert stored_files.files_in_use(session)["trainings"] == {"b" * 64}


def test_state_of_other_options_is_not_gone_on_from(session: Session, case: Case) -> None:
    case.keep(session, "a")
    other = {"method": "retrain", "options": {"epochs": 3}}
    assert batch_states.resumable(session, case.batch, other) is None


def test_row_excluded_since_is_kept_and_its_erasure_ends_the_state(
    session: Session, case: Case
) -> None:
    case.keep(session, "a")
    record = case.exclude(session, 5)
    assert 5 not in suppressions.about_to_be_erased(session, case.data)[0]
    assert [one.digest for one in batch_states.that_saw_forgotten(session, case.model)] == [
        "a" * 64
    ]
    assert batch_states.resumable(session, case.batch, RETRAIN) is not None
    record.erased_at = NOW
    session.flush()
    assert batch_states.resumable(session, case.batch, RETRAIN) is None


@pytest.mark.parametrize("end", ["stopped", "completed", "held", "given up"])
def test_state_of_a_batch_that_ended_is_left_to_be_destroyed(
    session: Session, case: Case, end: str
) -> None:
    case.keep(session, "a")
    case.exclude(session, 5)
    assert batch_states.left(session) == []
    if end == "stopped":
        execution.stop(session, case.batch, because="withdrawn", actor="key:k", now=NOW)
    elif end == "given up":
        batch_states.give_up(session)
    else:
        case.batch.status = BatchStatus(end)
        session.flush()
    assert batch_states.left(session) == [(case.batch.id, "a" * 64)]
    assert 5 in suppressions.about_to_be_erased(session, case.data)[0]
    for _ in range(2):  # the second time nothing happens
        batch_states.destroyed(session, case.batch.id, digest="a" * 64, actor="worker:w")
    session.commit()
    assert session.get(BatchState, case.batch.id) is None
    lines = session.query(AuditEvent).filter_by(action="batch:state_destroyed").all()
    assert [line.subject for line in lines] == [f"batch:{case.batch.id}"]


def test_worker_that_lost_the_batch_notes_nothing(session: Session, case: Case) -> None:
    leases.revoke(session, leases.of_model(case.model.id), now=NOW)
    with pytest.raises(leases.LeaseLost):
        case.keep(session, "a")
    assert batch_states.of(session, case.batch.id) is None
