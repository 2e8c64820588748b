"""Purges: what is destroyed when, what stays because something live needs it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from service.ledger.database.states import BatchStatus, IllegalMove, VersionStatus
from service.ledger.database.tables import AuditEvent, Dataset, Model, Version
from service.ledger.destruction import purges, stored_files
from tests import factories
from tests.factories import NOW

RETIRED = VersionStatus.RETIRED
AFTER = NOW + timedelta(seconds=100)


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session)


@pytest.fixture
def model(session: Session, data: Dataset) -> Model:
    return factories.model(session, data, policy={"purge_after_seconds": 100})


def retired(session: Session, model: Model, **columns) -> Version:
    return factories.version(
        session, model, **{"production": False, "status": RETIRED, "retired_at": NOW, **columns}
    )


def purge(session: Session, model: Model, version: Version) -> None:
    purges.record(session, model, version, receipt={"signature": "s"}, actor="worker:w", now=AFTER)


def test_retired_version_is_due_when_its_window_is_over(session: Session, model: Model) -> None:
    old = retired(session, model)
    factories.version(session, model)
    assert purges.due(session, now=AFTER - timedelta(seconds=1)) == []
    assert purges.due(session, now=AFTER) == [old.id]


@pytest.mark.parametrize(
    "status", [VersionStatus.PUBLISHED, VersionStatus.REJECTED, VersionStatus.CANDIDATE]
)
def test_only_retired_versions_are_due(
    session: Session, model: Model, status: VersionStatus
) -> None:
    factories.version(session, model, production=False, status=status)
    factories.version(session, model)
    assert purges.due(session, now=AFTER) == []


def test_version_of_a_batch_that_failed_its_verification_is_due_too(
    session: Session, model: Model
) -> None:
    """It may still carry what it was to forget."""
    base = factories.version(session, model)
    batch = factories.batch(session, model, base, status=BatchStatus.COMPLETED)
    failed = factories.version(
        session,
        model,
        parent=base,
        production=False,
        status=VersionStatus.REJECTED,
        batch_id=batch.id,
    )
    factories.version(session, model, parent=base, batch_id=batch.id)
    assert purges.due(session, now=AFTER - timedelta(seconds=1)) == []
    assert purges.due(session, now=AFTER) == [failed.id]


def test_published_versions_lose_their_sums_with_the_anchor_once_another_chain_lives(
    session: Session, model: Model
) -> None:
    anchor = retired(session, model)
    step = factories.version(session, model, parent=anchor)
    state = factories.artifact(session, step, kind="states")
    assert ("states", state.digest) not in purges.files_of_version(session, anchor)
    factories.version(session, model)
    assert ("states", state.digest) in purges.files_of_version(session, anchor)
    assert ("checkpoints", step.digest) not in purges.files_of_version(session, anchor)


def test_anchor_is_kept_while_its_chain_lives(session: Session, model: Model) -> None:
    anchor = retired(session, model)
    middle = retired(session, model, parent=anchor)
    factories.version(session, model, parent=middle)
    assert purges.due(session, now=AFTER) == [middle.id]
    fresh = factories.version(session, model)
    assert purges.due(session, now=AFTER) == [anchor.id, middle.id]
    assert model.production_id == fresh.id


@pytest.mark.parametrize("status", [BatchStatus.RUNNING, BatchStatus.FAILED])
def test_base_of_a_running_batch_is_kept(
    session: Session, model: Model, status: BatchStatus
) -> None:
    old = retired(session, model)
    factories.batch(session, model, old, status=status)
    factories.version(session, model)
    running = status == BatchStatus.RUNNING
    assert purges.due(session, now=AFTER) == ([] if running else [old.id])


def test_weights_that_another_version_shares_are_not_destroyed(
    session: Session, model: Model
) -> None:
    old = retired(session, model)
    live = factories.version(session, model, digest=old.digest)
    assert purges.files_of_version(session, old) == []
    live.status = VersionStatus.PURGED
    session.flush()
    assert purges.files_of_version(session, old) == [("checkpoints", old.digest)]


def test_weights_may_be_shared_with_a_reference_model(session: Session, model: Model) -> None:
    """Both are files of one kind, and a retrain may give what a reference has given."""
    old = retired(session, model)
    live = factories.version(session, model)
    reference = factories.artifact(session, live, kind="references", digest=old.digest)
    assert purges.files_of_version(session, old) == []
    assert stored_files.files_of(session, [reference.id]) == []
    old.status = VersionStatus.PURGED
    session.flush()
    assert stored_files.files_of(session, [reference.id]) == [("checkpoints", old.digest)]
    assert stored_files.is_in_use(session, "checkpoints", old.digest)
    reference.destroyed_at = AFTER
    session.flush()
    assert not stored_files.is_in_use(session, "checkpoints", old.digest)


def test_internal_state_goes_with_its_version_unless_shared(session: Session, model: Model) -> None:
    old = retired(session, model)
    live = factories.version(session, model)
    state = factories.artifact(session, old, kind="states")
    shared = factories.artifact(session, old, kind="caches")
    factories.artifact(session, live, kind="caches", digest=shared.digest)
    assert set(purges.files_of_version(session, old)) == {
        ("checkpoints", old.digest),
        ("states", state.digest),
    }


def test_scores_are_kept_for_pooling_while_the_chain_lives_and_go_with_the_anchor(
    session: Session, model: Model
) -> None:
    anchor = retired(session, model)
    middle = retired(session, model, parent=anchor)
    factories.version(session, model, parent=middle)
    scores = factories.artifact(session, middle, kind="scores")
    assert ("scores", scores.digest) not in purges.files_of_version(session, middle)
    purge(session, model, middle)
    assert scores.destroyed_at is None
    factories.version(session, model)  # a new anchor is live
    assert ("scores", scores.digest) in purges.files_of_version(session, anchor)
    purge(session, model, anchor)
    assert scores.destroyed_at == AFTER


def test_purge_leaves_the_row_and_a_receipt_in_the_chain(session: Session, model: Model) -> None:
    old = retired(session, model)
    factories.version(session, model)
    cache = factories.artifact(session, old)
    purge(session, model, old)
    session.commit()
    assert (old.status, old.purged_at, cache.destroyed_at) == (VersionStatus.PURGED, AFTER, AFTER)
    line = session.query(AuditEvent).filter_by(action="version:purged").one()
    assert line.subject == f"version:{model.name}/{old.number}"
    assert line.data == {"receipt": {"signature": "s"}}
    assert purges.due(session, now=AFTER) == []
    with pytest.raises(IllegalMove):
        purge(session, model, old)


def test_files_in_use_are_those_that_the_ledger_names_and_did_not_destroy(
    session: Session, model: Model, data: Dataset
) -> None:
    live = factories.version(session, model)
    gone = factories.version(session, model, production=False, status=VersionStatus.PURGED)
    kept = factories.artifact(session, live, kind="logs")
    factories.artifact(session, gone, kind="logs", destroyed_at=NOW)
    reference = factories.artifact(session, live, kind="references")
    used = stored_files.files_in_use(session)
    assert used["checkpoints"] == {live.digest, reference.digest}
    assert used["logs"] == {kept.digest}
    assert used["arrays"] == {data.array_key}


def test_the_calendar_has_what_waits_for_its_purge_the_earliest_first(
    session: Session, model: Model, data: Dataset
) -> None:
    slow = factories.model(session, data, policy={"purge_after_seconds": 1000})
    late = retired(session, slow)
    soon = retired(session, model, size_bytes=7)
    gone = factories.version(
        session, model, production=False, status=VersionStatus.WITHDRAWN, purge_at=NOW
    )
    retired(session, model, status=VersionStatus.PURGED)
    factories.version(session, model, production=False, status=VersionStatus.REJECTED)
    factories.version(session, model)
    found = purges.calendar(session, limit=10)
    assert [(one.model, one.number, one.at) for one in found] == [
        (model.name, gone.number, NOW),
        (model.name, soon.number, AFTER),
        (slow.name, late.number, NOW + timedelta(seconds=1000)),
    ]
    assert found[1].size_bytes == 7
