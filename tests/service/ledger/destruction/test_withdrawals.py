"""Withdrawals: what is taken back is served no more, and what waited for it is done."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, Withdrawn
from service.ledger.batches import execution, leases, next_batch
from service.ledger.database.states import (
    BatchStatus,
    ErasureStatus,
    ModelStatus,
    RequestStatus,
    RunStatus,
    VersionStatus,
)
from service.ledger.database.tables import AliasMove, Dataset, Model, Version
from service.ledger.destruction import purges
from service.ledger.registry import imports, models, versions
from service.ledger.registry.policy import Policy
from service.ledger.requests import intake, lifecycle, lookup
from service.ledger.selection.matching import Ask
from service.ledger.training import runs
from tests import factories
from tests.factories import NOW
from tests.service.ledger.destruction.withdrawing import (
    POLICY,
    WINDOW,
    actions,
    asked,
    erase,
    excluded,
    held,
    shares,
    withdraw,
    work,
)


def test_withdrawn_version_is_refused_wherever_it_could_be_served(
    session: Session, model: Model, live: Version
) -> None:
    old = factories.version(session, model, production=False)
    withdraw(session, old)
    assert (old.status, old.withdrawn_at) == (VersionStatus.WITHDRAWN, NOW)
    assert model.production_id == live.id
    with pytest.raises(Withdrawn, match="was withdrawn"):
        imports.refuse_download(session, model, old)
    with pytest.raises(Withdrawn, match="never goes live again"):
        versions.promote(
            session,
            model,
            old,
            expected_production=live.id,
            reason="rollback",
            actor="key:k",
            now=NOW,
        )
    for owner in (model, factories.model(session, factories.dataset(session))):
        with pytest.raises(Conflict, match="is a version that was withdrawn"):
            imports.check(session, owner, data_revision=0, digest=old.digest)
    assert ("version:withdrawn", "version:reader/2") in actions(session)


def test_live_version_is_withdrawn_and_nothing_is_live_then(
    session: Session, model: Model, live: Version
) -> None:
    withdraw(session, live)
    assert model.production_id is None
    [move] = session.scalars(select(AliasMove))
    assert (move.version_id, move.previous_id, move.reason, move.moved_by) == (
        None,
        live.id,
        "withdrawn",
        "key:k",
    )


def test_another_published_version_takes_the_place_of_the_live_one(
    session: Session, data: Dataset, model: Model
) -> None:
    old = factories.version(session, model)
    live = factories.version(session, model)
    request = asked(session, data, model, rows=[3])
    withdraw(session, live, successor=old)
    assert model.production_id == old.id
    assert live.status == VersionStatus.WITHDRAWN
    # What is asked for is worked on there.
    assert shares(session, request) == {"reader": ErasureStatus.PENDING}
    _, batch = work(session, model)
    assert batch.base_version_id == old.id


@pytest.mark.parametrize("status", [VersionStatus.RETIRED, VersionStatus.CANDIDATE])
def test_only_a_published_version_takes_the_place_of_another(
    session: Session, model: Model, live: Version, status: VersionStatus
) -> None:
    other = factories.version(session, model, production=False, status=status)
    with pytest.raises(Conflict, match="cannot take the place"):
        withdraw(session, live, successor=other)
    with pytest.raises(Conflict, match="cannot take the place"):
        withdraw(session, live, successor=live)


def test_requests_of_a_model_without_a_live_version_complete(
    session: Session, data: Dataset, model: Model, live: Version
) -> None:
    stuck = asked(
        session,
        data,
        model,
        rows=[0, 1],
        status=RequestStatus.NEEDS_REVIEW,
        share=ErasureStatus.NEEDS_REVIEW,
    )
    waiting = asked(session, data, model, rows=[2])
    withdraw(session, live)
    for request in (stuck, waiting):
        assert shares(session, request) == {"reader": ErasureStatus.COMPLETED}
        assert (request.status, request.status_reason) == (RequestStatus.PROCESSING, None)
    assert excluded(session, data) == {0, 1, 2}
    assert sorted(erase(session, data)) == sorted([stuck.id, waiting.id])
    assert stuck.status == waiting.status == RequestStatus.COMPLETED
    said = [subject for action, subject in actions(session) if action.endswith("holder_withdrawn")]
    assert said == [f"deletion_request:{one.id}" for one in (stuck, waiting)]


def test_versions_that_still_hold_the_records_are_retired_with_the_last_live_one(
    session: Session, data: Dataset, model: Model
) -> None:
    old = factories.version(session, model)
    live = factories.version(session, model)
    asked(session, data, model, rows=[3])
    withdraw(session, live)
    assert old.status == VersionStatus.RETIRED


def test_batch_on_a_withdrawn_version_is_stopped_and_its_worker_writes_nothing(
    session: Session, data: Dataset, model: Model, live: Version
) -> None:
    request = asked(session, data, model)
    lease, batch = work(session, model)
    assert shares(session, request) == {"reader": ErasureStatus.CLAIMED}
    withdraw(session, live)
    assert batch.status == BatchStatus.FAILED
    assert shares(session, request) == {"reader": ErasureStatus.COMPLETED}
    with pytest.raises(leases.LeaseLost):
        execution.complete(session, batch, live, held=lease, now=NOW)
    with pytest.raises(leases.LeaseLost):
        leases.renew(session, lease, seconds=60, now=NOW)


def test_batch_on_an_older_version_is_stopped_when_nothing_is_live_any_more(
    session: Session, data: Dataset, model: Model, live: Version
) -> None:
    request = asked(session, data, model)
    _, batch = work(session, model)
    moved = factories.version(session, model)  # production was moved by hand meanwhile
    withdraw(session, moved)
    assert batch.status == BatchStatus.FAILED
    assert shares(session, request) == {"reader": ErasureStatus.COMPLETED}


def test_batch_on_another_version_goes_on(
    session: Session, data: Dataset, model: Model, live: Version
) -> None:
    old = factories.version(session, model, production=False)
    asked(session, data, model)
    lease, batch = work(session, model)
    withdraw(session, old)
    assert batch.status == BatchStatus.RUNNING
    leases.hold(session, lease)


# Models.


def test_withdrawn_model_serves_trains_and_imports_nothing(
    session: Session, model: Model, live: Version
) -> None:
    factories.version(session, model, status=VersionStatus.RETIRED, production=False)
    factories.version(session, model, status=VersionStatus.CANDIDATE, production=False)
    withdraw(session, model)
    assert models.status(model) == ModelStatus.WITHDRAWN
    assert model.production_id is None
    assert {one.status for one in session.scalars(select(Version))} == {VersionStatus.WITHDRAWN}
    for call in (
        lambda: imports.refuse_download(session, model, live),
        lambda: imports.check(session, model, data_revision=0),
        lambda: runs.create(session, model, actor="key:k", now=NOW),
        lambda: next_batch.change_policy(
            session, model, {"max_records": 3}, actor="key:k", now=NOW
        ),
        lambda: next_batch.run_now(session, model, method=None, options={}, actor="key:k", now=NOW),
        lambda: models.require_parameters(model),
    ):
        with pytest.raises(Withdrawn, match="model reader was withdrawn"):
            call()
    assert actions(session)[-1] == ("model:withdrawn", "model:reader")
    withdraw(session, model)
    assert actions(session).count(("model:withdrawn", "model:reader")) == 1


def test_name_of_a_withdrawn_model_stays_taken(session: Session, data: Dataset) -> None:
    withdraw(session, factories.model(session, data, name="reader"))
    with pytest.raises(Conflict, match="which was withdrawn; a name is not used twice"):
        models.create(
            session,
            "reader",
            dataset="faces",
            architecture="mlp",
            parameters={},
            transform={},
            recipe={},
            policy=Policy(),
            actor="key:k",
            now=NOW,
        )


def test_training_of_a_withdrawn_model_ends_and_its_worker_writes_nothing(
    session: Session, model: Model, live: Version
) -> None:
    run = runs.create(session, model, actor="key:k", now=NOW)
    lease = held(session, leases.of_run(run.id))
    runs.start(session, run, data_revision=0, actor="worker:w", now=NOW)
    withdraw(session, model)
    assert (run.status, run.error) == (RunStatus.FAILED, "the model was withdrawn")
    with pytest.raises(leases.LeaseLost):
        leases.hold(session, lease)


def test_what_other_models_hold_is_still_asked_of_them(
    session: Session, data: Dataset, model: Model, live: Version
) -> None:
    other = factories.model(session, data, name="other", policy=POLICY)
    factories.version(session, other)
    waiting = asked(session, data, model, other, rows=[0])
    stuck = asked(
        session,
        data,
        model,
        rows=[1],
        status=RequestStatus.NEEDS_REVIEW,
        share=ErasureStatus.NEEDS_REVIEW,
    )
    factories.erasure(session, stuck, other)
    both = asked(
        session,
        data,
        model,
        other,
        rows=[2],
        status=RequestStatus.NEEDS_REVIEW,
        share=ErasureStatus.NEEDS_REVIEW,
    )
    withdraw(session, model)
    # Nobody has begun with it: it is asked of the other model alone, and can be cancelled.
    assert shares(session, waiting) == {"other": ErasureStatus.PENDING}
    assert (waiting.status, excluded(session, data)) == (RequestStatus.ACCEPTED, {1, 2})
    assert lifecycle.cancel(session, waiting.id, actor="key:k").status == RequestStatus.CANCELLED
    assert stuck.status == RequestStatus.PROCESSING
    assert shares(session, stuck) == {
        "reader": ErasureStatus.COMPLETED,
        "other": ErasureStatus.PENDING,
    }
    assert (both.status, both.status_reason) == (RequestStatus.NEEDS_REVIEW, "x")
    assert erase(session, data) == []


def test_requests_after_the_withdrawal_ask_nothing_of_the_model(
    session: Session, data: Dataset, model: Model, live: Version
) -> None:
    withdraw(session, model)
    receipt = intake.record(
        session,
        Ask(dataset="faces", kind="records", record_ids=("r1",)),
        principal="key_test",
        digester=factories.DIGESTER,
        now=NOW,
    )
    request = lookup.get(session, str(receipt.answer["id"]))
    assert shares(session, request) == {}


# Purges.


def test_withdrawn_versions_are_due_after_the_window_or_at_once(
    session: Session, model: Model, live: Version
) -> None:
    old = factories.version(session, model, production=False)
    withdraw(session, old)
    assert purges.due(session, now=NOW + WINDOW - timedelta(seconds=1)) == []
    assert purges.due(session, now=NOW + WINDOW) == [old.id]
    withdraw(session, old, now=NOW + timedelta(seconds=10))  # again: no later than it was said
    assert purges.due(session, now=NOW + WINDOW) == [old.id]
    withdraw(session, old, purge="now")
    assert purges.due(session, now=NOW) == [old.id]
    withdraw(session, old)
    assert purges.due(session, now=NOW) == [old.id]


def test_withdrawn_anchor_stays_as_internal_state_while_a_live_version_steps_from_it(
    session: Session, data: Dataset, model: Model
) -> None:
    anchor = factories.version(session, model)
    live = factories.unlearned(session, model, anchor, [factories.request(session, data)])
    withdraw(session, anchor, purge="now")
    assert purges.due(session, now=NOW) == []
    with pytest.raises(Withdrawn):
        imports.refuse_download(session, model, anchor)
    withdraw(session, live, purge="now")
    assert purges.due(session, now=NOW) == [anchor.id, live.id]


def test_model_is_purged_with_its_last_version(
    session: Session, model: Model, live: Version
) -> None:
    retired = factories.version(
        session, model, status=VersionStatus.RETIRED, retired_at=NOW - WINDOW, production=False
    )
    withdraw(session, model)
    # The window of what was retired before goes on from where it was.
    assert purges.due(session, now=NOW) == [retired.id]
    assert purges.due(session, now=NOW + WINDOW) == [live.id, retired.id]
    for one in (live, retired):
        assert purges.finished_models(session) == []
        purges.record(session, model, one, receipt={}, actor="worker:w", now=NOW)
    assert purges.finished_models(session) == [model]
    for _ in range(2):
        purges.record_model(session, model, receipt={"a": 1}, actor="worker:w", now=NOW)
    assert models.status(model) == ModelStatus.PURGED
    assert purges.finished_models(session) == []
    assert actions(session).count(("model:purged", "model:reader")) == 1
    withdraw(session, model, purge="now")
    assert {one.status for one in session.scalars(select(Version))} == {VersionStatus.PURGED}
    with pytest.raises(Withdrawn):
        runs.create(session, model, actor="key:k", now=NOW)
