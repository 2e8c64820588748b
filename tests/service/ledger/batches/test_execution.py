"""Batches: what closes one, who may run it, what becomes of its erasures when it fails."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.batches import claims, execution, leases
from service.ledger.database import db, locks
from service.ledger.database.states import (
    BatchStatus,
    ErasureStatus,
    RequestStatus,
    RunStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    AuditEvent,
    Batch,
    BatchRecord,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    Version,
)
from service.ledger.obligations import erasures
from service.ledger.registry import versions
from service.ledger.requests import lifecycle
from tests import factories
from tests.factories import NOW

LATER = NOW + timedelta(seconds=60)
RETRY = execution.Retry(max_attempts=3, backoff_seconds=2.0)


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session, rows=20)


@pytest.fixture
def model(session: Session, data: Dataset) -> Model:
    made = factories.model(session, data, policy={"max_records": 10, "max_wait_seconds": 10})
    factories.version(session, made)
    return made


def ask(session: Session, data: Dataset, *models: Model, rows=(0,), at=NOW) -> DeletionRequest:
    request = factories.request(session, data, rows=rows)
    for one in models:
        factories.erasure(session, request, one, created_at=at)
    return request


def lease(session: Session, model: Model, *, owner="w1", now=LATER, seconds=30.0) -> leases.Held:
    held = leases.acquire(session, leases.of_model(model.id), owner=owner, seconds=seconds, now=now)
    assert held is not None
    return held


def claim(session: Session, model: Model, *, owner="w1", now=LATER):
    """Take the lease and the next batch."""
    held = lease(session, model, owner=owner, now=now)
    return held, claims.claim(session, model, held=held, now=now)


def unlearn(
    session: Session,
    model: Model,
    held: leases.Held,
    batch: Batch,
    *,
    retrained: bool = False,
    now=LATER,
):
    """What the pipeline does when the computation has come back."""
    base = session.get_one(Version, batch.base_version_id)
    revision = session.get_one(Dataset, model.dataset_id).revision
    version = versions.register(
        session,
        model,
        origin="retrained" if retrained else "unlearned",
        digest="d" * 64,
        size_bytes=1,
        data_revision=revision if retrained else base.data_revision,
        seed=1,
        code_version="0",
        parent=base,
        anchor_id=None if retrained else base.anchor_id,
        batch_id=batch.id,
        now=now,
        actor="worker:w",
    )
    execution.complete(session, batch, version, held=held, now=now)
    versions.promote(
        session,
        model,
        version,
        expected_production=model.production_id,
        reason="unlearned",
        actor="worker:w",
        now=now,
    )
    return version


def status(session: Session, request: DeletionRequest) -> tuple[str, list[str]]:
    session.expire_all()
    shares = session.query(Erasure).filter_by(request_id=request.id).order_by(Erasure.id)
    return session.get_one(DeletionRequest, request.id).status, [one.status for one in shares]


# What closes a batch.


def test_waits_until_the_oldest_erasure_has_waited_long_enough(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model)
    held = lease(session, model, now=NOW)
    just_before = NOW + timedelta(seconds=9.9)
    assert claims.due_models(session, now=just_before) == []
    assert claims.claim(session, model, held=held, now=just_before) is None
    due = NOW + timedelta(seconds=10)
    assert claims.due_models(session, now=due) == [model.id]
    assert claims.claim(session, model, held=held, now=due) is not None


def test_models_are_served_in_the_order_in_which_they_have_waited(
    session: Session, data: Dataset
) -> None:
    policy = {"max_records": 10, "max_wait_seconds": 10}
    made = [factories.model(session, data, name=f"m{n}", policy=policy) for n in range(4)]
    for one in made:
        factories.version(session, one)
    waited = {0: 20, 1: 40, 2: 30, 3: 50}
    for n, seconds in waited.items():
        for since in (seconds, 12):  # a model has waited as long as its oldest request
            ask(session, data, made[n], rows=[n], at=NOW - timedelta(seconds=since))
    assert claims.due_models(session, now=NOW) == [made[n].id for n in (3, 1, 2, 0)]


def test_closes_at_once_when_full(session: Session, data: Dataset, model: Model) -> None:
    for row in range(9):
        ask(session, data, model, rows=[row])
    assert claims.due_models(session, now=NOW) == []
    ask(session, data, model, rows=[9])
    assert claims.due_models(session, now=NOW) == [model.id]


@pytest.mark.parametrize("ended", [RequestStatus.CANCELLED, RequestStatus.DENIED])
def test_erasure_of_an_ended_request_is_not_claimed(
    session: Session, data: Dataset, model: Model, ended: RequestStatus
) -> None:
    old = [ask(session, data, model, rows=[row], at=NOW) for row in range(10)]
    for request in old:
        request.status = ended
    session.flush()
    assert claims.due_models(session, now=LATER) == []
    fresh = ask(session, data, model, rows=[10], at=LATER)
    assert claims.due_models(session, now=LATER) == []  # neither old nor full by the others
    held, batch = claim(session, model)
    assert batch is None
    due = LATER + timedelta(seconds=10)
    assert claims.due_models(session, now=due) == [model.id]
    batch = claims.claim(session, model, held=held, now=due)
    assert execution.rows(session, batch) == [10]
    assert status(session, fresh)[1] == [ErasureStatus.CLAIMED]
    assert {status(session, request)[1][0] for request in old} == {ErasureStatus.PENDING}


def test_request_under_review_for_one_model_is_claimed_on_another(
    session: Session, data: Dataset, model: Model
) -> None:
    other = factories.model(session, data, name="other", policy={"max_wait_seconds": 10})
    factories.version(session, other)
    request = ask(session, data, model, other)
    held, batch = claim(session, model)
    execution.fail(
        session, batch, held=held, error="boom", retry=execution.Retry(1, 2.0), now=LATER
    )
    assert request.status == RequestStatus.NEEDS_REVIEW
    assert claims.due_models(session, now=LATER) == [other.id]
    _, batch = claim(session, other)
    assert execution.rows(session, batch) == [0]


def test_erasures_that_rest_after_a_failure_do_not_fill_a_batch(
    session: Session, data: Dataset, model: Model
) -> None:
    for row in range(10):
        ask(session, data, model, rows=[row])
    held, batch = claim(session, model)
    execution.fail(session, batch, held=held, error="boom", retry=RETRY, now=LATER)
    ask(session, data, model, rows=[10], at=LATER)
    assert claims.due_models(session, now=LATER) == []
    assert claims.claim(session, model, held=held, now=LATER) is None


def test_run_now_closes_at_once_and_once(session: Session, data: Dataset, model: Model) -> None:
    ask(session, data, model)
    model.run_now_at = NOW
    model.run_now_method = {"method": "retrain", "options": {}}
    held, batch = claim(session, model, now=NOW)
    assert batch is not None
    assert batch.method == {"method": "retrain", "options": {}}
    assert model.run_now_at is None
    assert model.run_now_method is None
    unlearn(session, model, held, batch, now=NOW)
    ask(session, data, model, rows=[1])
    assert claims.due_models(session, now=NOW) == []


def test_takes_no_more_records_than_allowed_but_never_splits_a_request(
    session: Session, data: Dataset, model: Model
) -> None:
    first = ask(session, data, model, rows=range(6))
    second = ask(session, data, model, rows=range(6, 12))
    held, batch = claim(session, model)
    assert execution.rows(session, batch) == list(range(6))
    assert status(session, second)[1] == [ErasureStatus.PENDING]
    unlearn(session, model, held, batch)
    batch = claims.claim(session, model, held=held, now=LATER)
    assert execution.rows(session, batch) == list(range(6, 12))
    assert status(session, first)[1] == [ErasureStatus.COMPLETED]


def test_one_request_larger_than_a_batch_is_a_batch_of_its_own(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model, rows=range(15))
    _, batch = claim(session, model)
    assert len(execution.rows(session, batch)) == 15


def test_classes_and_records_are_never_in_one_batch(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model, rows=[0])
    whole = factories.request(session, data, rows=[], kind="class", label=1)
    factories.erasure(session, whole, model)
    held, batch = claim(session, model)
    assert (batch.kind, execution.rows(session, batch)) == ("records", [0])
    unlearn(session, model, held, batch)
    batch = claims.claim(session, model, held=held, now=LATER)
    assert (batch.kind, execution.rows(session, batch)) == ("class", [1, 4, 7, 10, 13, 16, 19])


# Who may run it.


def test_no_second_batch_while_one_runs(session: Session, data: Dataset, model: Model) -> None:
    """The holder finds its own batch again; a newcomer does not even get the lease."""
    ask(session, data, model)
    held, batch = claim(session, model)
    later = ask(session, data, model, rows=[1])
    assert claims.claim(session, model, held=held, now=LATER).id == batch.id
    key = leases.of_model(model.id)
    assert leases.acquire(session, key, owner="w2", seconds=30, now=LATER) is None
    assert status(session, later)[1] == [ErasureStatus.PENDING]


def test_database_itself_refuses_a_second_running_batch(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model)
    _, batch = claim(session, model)
    base = session.get_one(Version, batch.base_version_id)
    with pytest.raises(IntegrityError):
        factories.batch(session, model, base)


def test_requests_that_arrive_while_a_batch_runs_go_to_the_next(
    session: Session, data: Dataset, model: Model
) -> None:
    early = ask(session, data, model, rows=[0])
    held, batch = claim(session, model)
    late = ask(session, data, model, rows=[1])
    version = unlearn(session, model, held, batch)
    assert status(session, early)[1] == [ErasureStatus.COMPLETED]
    assert status(session, late)[1] == [ErasureStatus.PENDING]
    following = claims.claim(session, model, held=held, now=LATER)
    assert execution.rows(session, following) == [1]
    assert following.base_version_id == version.id


def test_batch_of_a_dead_worker_is_taken_over_as_it_stands(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model)
    first, batch = claim(session, model)
    ask(session, data, model, rows=[1])
    second, taken = claim(session, model, owner="w2", now=LATER + timedelta(seconds=31))
    assert taken.id == batch.id
    assert taken.fence == second.fence > first.fence
    assert taken.attempts == 2
    assert execution.rows(session, taken) == [0]


@pytest.mark.parametrize("deed", ["complete", "fail", "hand back"])
def test_worker_that_was_overtaken_can_do_nothing_to_the_batch(
    session: Session, data: Dataset, model: Model, deed: str
) -> None:
    request = ask(session, data, model)
    first, batch = claim(session, model)
    claim(session, model, owner="w2", now=LATER + timedelta(seconds=31))
    act = {
        "complete": lambda: unlearn(session, model, first, batch),
        "fail": lambda: execution.fail(
            session, batch, held=first, error="x", retry=RETRY, now=LATER
        ),
        "hand back": lambda: execution.hand_back(
            session, batch, held=first, because="x", now=LATER
        ),
    }[deed]
    with pytest.raises(leases.LeaseLost):
        act()
    assert batch.status == BatchStatus.RUNNING
    assert status(session, request)[1] == [ErasureStatus.CLAIMED]


def test_batch_is_completed_once(session: Session, data: Dataset, model: Model) -> None:
    ask(session, data, model)
    held, batch = claim(session, model)
    unlearn(session, model, held, batch)
    with pytest.raises(leases.LeaseLost):
        unlearn(session, model, held, batch)


# What it forgets.


def test_record_named_by_two_requests_is_forgotten_once(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model, rows=[0, 1])
    held, batch = claim(session, model)
    second = ask(session, data, model, rows=[1, 2])
    unlearn(session, model, held, batch)
    following = claims.claim(session, model, held=held, now=LATER)
    assert execution.rows(session, following) == [2]
    unlearn(session, model, held, following)
    assert status(session, second)[1] == [ErasureStatus.COMPLETED]


def test_records_outside_the_training_split_are_not_unlearned(session: Session) -> None:
    data = factories.dataset(session, rows=3, splits=[0, 1, 2])
    model = factories.model(session, data)
    factories.version(session, model)
    ask(session, data, model, rows=[0, 1, 2])
    _, batch = claim(session, model)
    assert execution.rows(session, batch) == [0]
    excluded = session.query(Record.row).filter(Record.excluded_revision.is_not(None))
    assert sorted(row for (row,) in excluded) == [0, 1, 2]


def test_each_model_of_the_dataset_forgets_for_itself(session: Session, data: Dataset) -> None:
    """Exclusion by the first model's batch must not hide the record from the second's."""
    models = [factories.model(session, data) for _ in range(2)]
    for one in models:
        factories.version(session, one)
    request = ask(session, data, *models, rows=[3])
    for one in models:
        held, batch = claim(session, one)
        assert execution.rows(session, batch) == [3]
        unlearn(session, one, held, batch)
    assert status(session, request)[1] == [ErasureStatus.COMPLETED] * 2


# When it fails.


def test_failed_batch_pauses_and_doubles_the_pause(
    session: Session, data: Dataset, model: Model
) -> None:
    request = ask(session, data, model)
    now = LATER
    for attempt, pause in ((1, 2), (2, 4)):
        held, batch = claim(session, model, now=now)
        execution.fail(session, batch, held=held, error="disk full", retry=RETRY, now=now)
        leases.release(session, held, now=now)
        share = session.query(Erasure).filter_by(request_id=request.id).one()
        assert (share.attempts, share.error) == (attempt, "disk full")
        assert share.not_before == now + timedelta(seconds=pause)
        assert claims.due_models(session, now=now) == []
        now += timedelta(seconds=pause)
    held, batch = claim(session, model, now=now)
    execution.fail(session, batch, held=held, error="disk full", retry=RETRY, now=now)
    state, shares = status(session, request)
    assert state == RequestStatus.NEEDS_REVIEW
    assert shares == [ErasureStatus.NEEDS_REVIEW]
    reason = session.get_one(DeletionRequest, request.id).status_reason
    assert reason is not None
    assert reason.startswith("disk full; ")
    for way_out in (
        f"/v1/deletion-requests/{request.id}:retry",
        f"/v1/models/{model.name}:withdraw",
    ):
        assert way_out in reason


def test_pause_has_an_upper_limit() -> None:
    assert execution.Retry(100, 2.0).pause(90) == timedelta(minutes=10)


def test_pause_ends_when_the_clock_is_set_back_by_more_than_the_longest(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model)
    ahead = LATER + timedelta(hours=5)
    held, batch = claim(session, model, now=ahead)
    execution.fail(session, batch, held=held, error="disk full", retry=RETRY, now=ahead)
    leases.release(session, held, now=ahead)
    assert claims.due_models(session, now=ahead) == []
    assert claims.due_models(session, now=ahead - timedelta(minutes=9)) == []
    assert claims.due_models(session, now=LATER) == [model.id]
    assert claim(session, model, now=LATER)[1] is not None


def test_worker_that_dies_again_and_again_is_a_failure_too(
    session: Session, data: Dataset, model: Model
) -> None:
    """Take-overs count as attempts, so a batch that kills its worker ends as well."""
    ask(session, data, model)
    now = LATER
    for died in range(1, 5):
        _, batch = claim(session, model, owner=f"w{died}", now=now)
        assert batch.attempts == died
        now += timedelta(seconds=31)


def test_poisonous_request_ends_alone_and_the_others_complete(
    session: Session, data: Dataset, model: Model
) -> None:
    asked = [ask(session, data, model, rows=[row]) for row in range(7)]
    poison = 4
    now = LATER
    ran = 0
    while claims.due_models(session, now=now):
        ran += 1
        held, batch = claim(session, model, now=now)
        if poison in execution.rows(session, batch):
            execution.fail(session, batch, held=held, error="boom", retry=RETRY, now=now)
        else:
            unlearn(session, model, held, batch, now=now)
        leases.release(session, held, now=now)
        now += timedelta(seconds=20)
    states = [status(session, one)[0] for one in asked]
    assert states[poison] == RequestStatus.NEEDS_REVIEW
    assert status(session, asked[poison])[1] == [ErasureStatus.NEEDS_REVIEW]
    del states[poison]
    others = [status(session, one)[1] for n, one in enumerate(asked) if n != poison]
    assert others == [[ErasureStatus.COMPLETED]] * 6
    assert ran <= 3 * 4 + 3  # three tries per halving, and each clean half once


def test_retried_request_stays_apart_and_gets_fresh_attempts(
    session: Session, data: Dataset, model: Model
) -> None:
    bad = ask(session, data, model, rows=[0])
    now = LATER
    for _ in range(3):
        held, batch = claim(session, model, now=now)
        execution.fail(session, batch, held=held, error="boom", retry=RETRY, now=now)
        leases.release(session, held, now=now)
        now += timedelta(seconds=20)
    session.expire_all()
    lifecycle.retry(session, bad.id, actor="key:k")
    ask(session, data, model, rows=[1], at=now)
    now += timedelta(seconds=20)
    held, batch = claim(session, model, now=now)
    assert execution.rows(session, batch) == [0]
    unlearn(session, model, held, batch, now=now)
    assert status(session, bad)[1] == [ErasureStatus.COMPLETED]


def test_handing_back_a_batch_counts_no_attempt(
    session: Session, data: Dataset, model: Model
) -> None:
    request = ask(session, data, model)
    held, batch = claim(session, model)
    execution.fail(session, batch, held=held, error="boom", retry=RETRY, now=LATER)
    later = LATER + timedelta(seconds=5)
    batch = claims.claim(session, model, held=held, now=later)
    execution.hand_back(session, batch, held=held, because="stopping", now=later)
    share = session.query(Erasure).filter_by(request_id=request.id).one()
    assert (share.status, share.attempts, share.not_before) == (ErasureStatus.PENDING, 1, None)
    again = claims.claim(session, model, held=held, now=later)
    assert again is not None
    assert again.id != batch.id


def test_request_under_review_keeps_state_when_another_model_claims(
    session: Session, data: Dataset
) -> None:
    """Otherwise nobody could ever retry it."""
    models = [factories.model(session, data) for _ in range(2)]
    for one in models:
        factories.version(session, one)
    request = ask(session, data, *models)
    now = LATER
    for _ in range(3):
        held, batch = claim(session, models[0], now=now)
        execution.fail(session, batch, held=held, error="boom", retry=RETRY, now=now)
        leases.release(session, held, now=now)
        now += timedelta(seconds=20)
    held, batch = claim(session, models[1], now=now)
    unlearn(session, models[1], held, batch, now=now)
    assert status(session, request)[0] == RequestStatus.NEEDS_REVIEW
    lifecycle.retry(session, request.id, actor="key:k")
    held, batch = claim(session, models[0], now=now)
    unlearn(session, models[0], held, batch, now=now)
    assert status(session, request)[1] == [ErasureStatus.COMPLETED] * 2


# Anchors that were trained while deletions were completed.


def test_fresh_anchor_catches_up_before_it_goes_live(
    session: Session, data: Dataset, model: Model
) -> None:
    run = factories.training_run(
        session, model, status=RunStatus.RUNNING, data_revision=data.revision
    )
    ask(session, data, model, rows=[2, 3])
    held, batch = claim(session, model)
    live = unlearn(session, model, held, batch)
    run.status = RunStatus.COMPLETED
    candidate = factories.version(
        session,
        model,
        production=False,
        status=VersionStatus.CANDIDATE,
        training_run_id=run.id,
        data_revision=0,
    )
    assert versions.contains_forgotten(session, model, candidate) != []
    assert claims.due_models(session, now=LATER) == [model.id]
    catching_up = claims.claim(session, model, held=held, now=LATER)
    assert catching_up.base_version_id == candidate.id
    assert execution.rows(session, catching_up) == [2, 3]
    assert model.production_id == live.id
    unlearn(session, model, held, catching_up)
    assert session.get_one(Version, candidate.id).status == VersionStatus.RETIRED
    assert claims.due_models(session, now=LATER) == []


def test_anchor_that_cannot_catch_up_is_rejected_and_old_version_stays_live(
    session: Session, data: Dataset, model: Model
) -> None:
    run = factories.training_run(session, model)
    ask(session, data, model, rows=[2])
    held, batch = claim(session, model)
    live = unlearn(session, model, held, batch)
    candidate = factories.version(
        session,
        model,
        production=False,
        status=VersionStatus.CANDIDATE,
        training_run_id=run.id,
        data_revision=0,
    )
    for _ in range(RETRY.max_attempts):
        batch = claims.claim(session, model, held=held, now=LATER)
        execution.fail(session, batch, held=held, error="boom", retry=RETRY, now=LATER)
    assert candidate.status == VersionStatus.REJECTED
    assert model.production_id == live.id
    assert claims.due_models(session, now=LATER) == []


# Cancelled at the moment of the claim.


@pytest.mark.parametrize("attempt", range(4))
def test_request_is_cancelled_or_claimed_and_never_both(database: Engine, attempt: int) -> None:
    sessions = db.session_factory(database)
    with sessions() as session, session.begin():
        data = factories.dataset(session, rows=12)
        model = factories.model(session, data)
        factories.version(session, model)
        asked = [ask(session, data, model, rows=[row]).id for row in range(10)]
        held = lease(session, model)
        model_id = model.id
    start = threading.Barrier(2)
    cancelled: list[str] = []
    refused: list[str] = []

    def cancel() -> None:
        start.wait()
        for request_id in asked if attempt % 2 else reversed(asked):
            try:
                with sessions() as mine, mine.begin():
                    lifecycle.cancel(mine, request_id, actor="key:k")
                cancelled.append(request_id)
            except Conflict:
                refused.append(request_id)

    thread = threading.Thread(target=cancel)
    thread.start()
    start.wait()
    with sessions() as session, session.begin():
        claims.claim(session, session.get_one(Model, model_id), held=held, now=LATER)
    thread.join()
    with sessions() as session:
        found = dict(session.execute(select(Erasure.request_id, Erasure.status)).all())
        states = dict(session.execute(select(DeletionRequest.id, DeletionRequest.status)).all())
    assert sorted([*cancelled, *refused]) == sorted(asked)
    for request_id in cancelled:
        assert states[request_id] == RequestStatus.CANCELLED
        assert found[request_id] == ErasureStatus.CANCELLED
    for request_id in refused:
        assert states[request_id] == RequestStatus.PROCESSING
        assert found[request_id] == ErasureStatus.CLAIMED


def test_every_step_leaves_its_line_in_the_audit_chain(
    session: Session, data: Dataset, model: Model
) -> None:
    request = ask(session, data, model)
    held, batch = claim(session, model)
    execution.fail(session, batch, held=held, error="x", retry=RETRY, now=LATER)
    later = LATER + timedelta(seconds=5)
    batch = claims.claim(session, model, held=held, now=later)
    unlearn(session, model, held, batch, now=later)
    erasures.mark_erased(session, data, [0], now=later, actor="worker:w")
    erasures.settle(session, now=later, actor="worker:w")
    session.commit()
    actions = [row.action for row in session.query(AuditEvent).order_by(AuditEvent.seq)]
    for action in (
        "batch:claimed",
        "batch:failed",
        "batch:completed",
        "version:registered",
        "version:promoted",
        "version:retired",
        "records:erased",
        "deletion_request:completed",
    ):
        assert action in actions
    assert status(session, request)[0] == RequestStatus.COMPLETED
    about = lifecycle.events(session, request.id, after=None, limit=10)
    assert [line.action for line in about] == ["batch:claimed", "deletion_request:completed"]
    assert about[0].subject == f"batch:{batch.id}"
    assert about[0].data["requests"] == [request.id]


# What a claim costs.


@pytest.mark.postgres
def test_claim_changes_its_rows_in_place(postgres_database: Engine) -> None:
    """No index is written for them, so their new versions are heap-only."""
    with db.session_factory(postgres_database)() as session:
        data = factories.dataset(session, rows=60)
        model = factories.model(session, data, policy={"max_wait_seconds": 0})
        factories.version(session, model)
        for row in range(50):
            ask(session, data, model, rows=[row])
        session.commit()
        _, batch = claim(session, model)
        assert len(execution.erasures_of(session, batch)) == 50
        written = {
            name: tuple(counts)
            for name, *counts in session.execute(
                text(
                    "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_all_tables"
                    " WHERE relname IN ('erasures', 'deletion_requests')"
                )
            )
        }
    assert written == {"erasures": (50, 50), "deletion_requests": (50, 50)}


def test_rows_of_a_batch_are_listed_when_it_has_a_version(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model, rows=[3, 1])
    held, batch = claim(session, model)
    listed = select(BatchRecord.row).where(BatchRecord.batch_id == batch.id)
    assert (batch.rows, session.scalars(listed).all()) == ([1, 3], [])
    unlearn(session, model, held, batch)
    assert (batch.rows, sorted(session.scalars(listed))) == (None, [1, 3])
    assert execution.rows(session, batch) == [1, 3]


@pytest.mark.postgres
def test_requests_that_others_have_locked_are_left_to_the_next_batch(
    postgres_database: Engine,
) -> None:
    sessions = db.session_factory(postgres_database)
    with sessions.begin() as session:
        data = factories.dataset(session, rows=12)
        model = factories.model(session, data, policy={"max_wait_seconds": 0, "max_records": 4})
        factories.version(session, model)
        asked = [ask(session, data, model, rows=[row]).id for row in range(8)]
        held = lease(session, model)
        model_id = model.id
    with sessions.begin() as other, sessions.begin() as session:
        locks.requests(other, [*asked[:4], asked[5]])  # all of the oldest four
        model = session.get_one(Model, model_id)
        batch = claims.claim(session, model, held=held, now=LATER)
        assert batch is not None
        assert execution.rows(session, batch) == [4, 6, 7]
