"""Legal holds: nothing of a request is destroyed, whoever else asks for it, until the release."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.audit import chain
from service.ledger.batches import claims, execution, leases, queue
from service.ledger.database import db, locks
from service.ledger.database.states import BatchStatus, ErasureStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import (
    AuditEvent,
    Batch,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    RequestDataset,
    Version,
)
from service.ledger.destruction import withdrawals
from service.ledger.obligations import completion, without_models
from service.ledger.obligations.legal import UnderLegalHold
from service.ledger.requests import legal_holds, lifecycle, lookup, suppressions
from service.ledger.requests.legal_holds import HoldReason
from service.ledger.selection import exclusions, naming
from tests import factories
from tests.factories import NOW

LATER = NOW + timedelta(seconds=60)
REASON = "Doe v. Example, docket 4711"


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session, rows=20)


@pytest.fixture
def model(session: Session, data: Dataset) -> Model:
    made = factories.model(session, data, policy={"max_records": 10, "max_wait_seconds": 10})
    factories.version(session, made)
    return made


def ask(session: Session, data: Dataset, *models: Model, row: int = 0) -> DeletionRequest:
    request = factories.request(session, data, rows=[row])
    for one in models:
        factories.erasure(session, request, one)
    return request


def place(session: Session, request: DeletionRequest) -> DeletionRequest:
    return legal_holds.place(
        session,
        request.id,
        code=HoldReason.LEGAL_CLAIMS,
        reason=REASON,
        actor="key:key_dpo",
        now=LATER,
    )


def release(session: Session, request: DeletionRequest) -> DeletionRequest:
    return legal_holds.release(
        session, request.id, reason="settled", actor="key:key_dpo", now=LATER
    )


def claim(session: Session, model: Model) -> tuple[leases.Held, Batch | None]:
    key = leases.of_model(model.id)
    held = leases.acquire(session, key, owner="w1", seconds=30, now=LATER)
    assert held is not None
    return held, claims.claim(session, model, held=held, now=LATER)


def members(session: Session, batch: Batch | None) -> list[str]:
    assert batch is not None
    return [one.request_id for one in execution.erasures_of(session, batch)]


def test_a_batch_is_formed_without_the_request_until_its_release(
    session: Session, data: Dataset, model: Model
) -> None:
    held_back = place(session, ask(session, data, model, row=1))
    session.commit()
    assert queue.due_models(session, now=LATER) == []
    other = ask(session, data, model, row=2)
    assert queue.due_models(session, now=LATER) == [model.id]
    held, batch = claim(session, model)
    assert members(session, batch) == [other.id]
    assert batch is not None
    execution.hand_back(session, batch, held=held, because="test", now=LATER)
    leases.release(session, held, now=LATER)
    release(session, held_back)
    session.commit()
    assert members(session, claim(session, model)[1]) == [held_back.id, other.id]


def test_what_is_under_way_cannot_be_recorded_any_more(
    session: Session, data: Dataset, model: Model
) -> None:
    request, other = (ask(session, data, model, row=row) for row in (1, 2))
    held, batch = claim(session, model)
    assert batch is not None
    session.commit()
    place(session, request)
    session.commit()
    with pytest.raises(leases.LeaseLost):
        execution.running(session, batch.id, held=held)
    session.rollback()
    session.refresh(batch)
    assert (batch.status, batch.error) == (
        BatchStatus.FAILED,
        "a legal hold was placed on one of its requests",
    )
    shares = session.scalars(select(Erasure).order_by(Erasure.id)).all()
    assert [one.status for one in shares] == [ErasureStatus.PENDING] * 2
    assert [one.attempts for one in shares] == [0, 0]
    assert members(session, claim(session, model)[1]) == [other.id]


def test_a_held_version_is_given_up(session: Session, data: Dataset, model: Model) -> None:
    request = ask(session, data, model, row=1)
    base = model.production_id
    held, batch = claim(session, model)
    assert batch is not None
    waits = factories.version(
        session, model, production=False, status=VersionStatus.CANDIDATE, mark="accuracy_drop"
    )
    batch.status = BatchStatus.HELD
    batch.version_id = waits.id
    leases.release(session, held, now=LATER)
    session.commit()
    place(session, request)
    session.commit()
    session.refresh(batch)
    session.refresh(waits)
    assert (batch.status, waits.status) == (BatchStatus.FAILED, VersionStatus.REJECTED)
    assert model.production_id == base


def test_rows_are_not_erased_also_when_others_ask_for_them(
    session: Session, data: Dataset, model: Model
) -> None:
    request, other = ask(session, data, model, row=1), ask(session, data, row=1)
    free = ask(session, data, row=2)
    for one in (other, free):
        one.status = RequestStatus.PROCESSING
    place(session, request)
    exclusions.exclude(session, data.id, naming.Names.of([other, free]))
    session.commit()
    assert suppressions.about_to_be_erased(session, data)[0] == [2]
    lifecycle.cancel(session, request.id, actor="key:k")
    session.commit()
    assert suppressions.about_to_be_erased(session, data)[0] == [2]
    release(session, request)
    session.commit()
    assert suppressions.about_to_be_erased(session, data)[0] == [1, 2]


@pytest.mark.parametrize("by_label", [False, True])
def test_a_hold_waits_for_a_worker_that_overwrites_rows(
    session: Session, data: Dataset, by_label: bool
) -> None:
    """Whoever is told that it is placed may rely on it."""
    request = factories.request(
        session,
        data,
        rows=[] if by_label else [1, 2],
        kind="class" if by_label else "records",
        label=session.get_one(Record, (data.id, 1)).label if by_label else None,
        status=RequestStatus.PROCESSING,
    )
    # As a worker does just before.
    suppressions.keep_rows(session, data, {1: "1" * 64}, now=LATER)
    session.commit()
    with pytest.raises(Conflict, match="overwriting rows"):
        place(session, request)
    session.rollback()
    session.get_one(Record, (data.id, 1)).erased_at = LATER
    session.commit()
    assert place(session, request).legal_hold_id is not None


@pytest.mark.postgres
def test_a_hold_and_a_worker_that_is_about_to_overwrite_take_turns(
    postgres_database: Engine,
) -> None:
    """A hold that comes between the worker's look and its mark would not be seen by either."""
    sessions = db.session_factory(postgres_database)
    with sessions.begin() as session:
        data = factories.dataset(session, rows=20)
        request = factories.request(session, data, rows=[1], status=RequestStatus.PROCESSING)
    with sessions() as worker, sessions() as officer:
        locks.dataset(worker, data.id, locks.Hold.REVISION)
        officer.execute(text("SET LOCAL lock_timeout = '200ms'"))
        with pytest.raises(OperationalError, match="lock timeout"):
            place(officer, request)
        officer.rollback()
        suppressions.keep_rows(worker, data, {1: "1" * 64}, now=LATER)
        worker.commit()
        with pytest.raises(Conflict, match="overwriting rows"):
            place(officer, request)


def test_rows_of_a_class_on_hold_are_not_erased(session: Session, data: Dataset) -> None:
    whole = factories.request(session, data, rows=[], kind="class", label=1, matched=7)
    single = ask(session, data, row=1)  # of that class
    single.status = RequestStatus.PROCESSING
    place(session, whole)
    exclusions.exclude(session, data.id, naming.Names.of([single]))
    session.commit()
    assert suppressions.about_to_be_erased(session, data)[0] == []
    release(session, whole)
    session.commit()
    assert suppressions.about_to_be_erased(session, data)[0] == [1]


def test_a_request_without_models_is_neither_begun_nor_completed(
    session: Session, data: Dataset
) -> None:
    request = place(session, ask(session, data, row=1))
    session.commit()
    assert sorted(session.scalars(without_models.datasets(LATER))) == []
    assert without_models.exclude(session, data.id, now=LATER, actor="worker:w") == []
    request.status = RequestStatus.PROCESSING
    session.commit()
    assert completion.settle(session, now=LATER, actor="worker:w") == []
    release(session, request)
    session.commit()
    assert sorted(session.scalars(without_models.datasets(LATER))) == []
    assert completion.settle(session, now=LATER, actor="worker:w") == []  # its row still stands


@pytest.mark.parametrize("what", ["version", "model", "dataset"])
def test_withdrawals_that_would_destroy_it_are_refused(
    session: Session, data: Dataset, model: Model, what: str
) -> None:
    request = ask(session, data, model, row=1)
    place(session, request)
    session.commit()
    who = {"actor": "key:k", "now": LATER}
    version = session.get_one(Version, model.production_id)
    attempts: dict[str, Callable[[], None]] = {
        "version": lambda: withdrawals.withdraw_version(session, model, version, **who),
        "model": lambda: withdrawals.withdraw_model(session, model, **who),
        "dataset": lambda: withdrawals.withdraw_dataset(session, data, models="withdraw", **who),
    }
    with pytest.raises(UnderLegalHold, match=request.id):
        attempts[what]()
    session.rollback()
    release(session, request)
    session.commit()
    attempts[what]()
    session.commit()


def test_a_hold_that_would_keep_nothing_is_refused(
    session: Session, data: Dataset, model: Model
) -> None:
    other = factories.dataset(session, name="other", rows=20)
    here = ask(session, data, model, row=1)
    everywhere = factories.request(session, data, dataset_id=None, kind="subject", rows=[])
    for one in (data, other):
        session.add(
            RequestDataset(
                request_id=everywhere.id, dataset_id=one.id, matched=1, already_forgotten=0
            )
        )
    session.commit()
    withdrawals.withdraw_dataset(session, data, models="withdraw", actor="key:k", now=LATER)
    session.commit()
    with pytest.raises(Conflict, match="dataset was withdrawn"):
        place(session, here)
    session.rollback()
    assert place(session, everywhere).legal_hold_id is not None  # rows of the other one are kept


def test_approving_and_retrying_wait_for_the_release(
    session: Session, data: Dataset, model: Model
) -> None:
    waits = factories.request(session, data, status=RequestStatus.AWAITING_APPROVAL)
    stuck = factories.request(session, data, status=RequestStatus.NEEDS_REVIEW)
    for one in (waits, stuck):
        place(session, one)
    session.commit()
    with pytest.raises(UnderLegalHold, match="release it first"):
        lifecycle.approve(session, waits.id, actor="key:k", now=LATER)
    session.rollback()
    with pytest.raises(UnderLegalHold):
        lifecycle.retry(session, stuck.id, actor="key:k")
    session.rollback()
    release(session, waits)
    assert lifecycle.approve(session, waits.id, actor="key:k", now=LATER).id == waits.id


def test_holds_are_shown_with_their_reasons_which_the_audit_chain_does_not_hold(
    session: Session, data: Dataset, model: Model
) -> None:
    request = ask(session, data, model, row=1)
    place(session, request)
    release(session, request)
    place(session, request)
    session.commit()
    shown = lookup.detail(session, request)
    assert shown["legal_hold"] is True
    first, second = shown["legal_holds"]
    assert (first["reason"], first["release_reason"]) == (REASON, "settled")
    assert (second["reason_code"], second["released_at"]) == ("legal_claims", None)
    lines = session.scalars(select(AuditEvent).order_by(AuditEvent.seq)).all()
    assert [one.action for one in lines] == [
        chain.Action.DELETION_REQUEST_LEGAL_HOLD_PLACED,
        chain.Action.DELETION_REQUEST_LEGAL_HOLD_RELEASED,
        chain.Action.DELETION_REQUEST_LEGAL_HOLD_PLACED,
    ]
    assert lines[0].data["because"] == "legal_claims"
    assert not any(REASON in str(one.data) for one in lines)


def test_holds_in_force_are_listed_and_on_demand_those_that_were_released(
    session: Session, data: Dataset, model: Model
) -> None:
    one, other = (ask(session, data, model, row=row) for row in (0, 1))
    for request in (one, other):
        place(session, request)

    def listed(*, in_force: bool, after: str | None = None, limit: int = 10) -> list[str]:
        found = legal_holds.listing(session, in_force=in_force, after=after, limit=limit)
        assert [row["id"] for row in found] == sorted(row["id"] for row in found)
        return [row["request"] for row in found]

    assert listed(in_force=True) == [one.id, other.id]
    release(session, one)
    assert listed(in_force=True) == [other.id]
    assert listed(in_force=False) == [one.id, other.id]
    [first] = legal_holds.listing(session, in_force=False, after=None, limit=1)
    assert (first["release_reason"], first["request_status"]) == ("settled", one.status)
    assert listed(in_force=False, after=first["id"]) == [other.id]


def test_what_makes_no_sense_is_refused(session: Session, data: Dataset, model: Model) -> None:
    request = ask(session, data, model, row=1)
    session.commit()
    with pytest.raises(Conflict, match="under no legal hold"):
        release(session, request)
    session.rollback()
    place(session, request)
    session.commit()
    with pytest.raises(Conflict, match="already"):
        place(session, request)
    session.rollback()
    done = factories.request(session, data, status=RequestStatus.COMPLETED)
    session.commit()
    with pytest.raises(Conflict, match="nothing left to hold"):
        place(session, done)
