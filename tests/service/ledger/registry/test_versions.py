"""Versions: what each still contains, what may go live, what is withdrawn."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from service.errors import Withdrawn
from service.ledger.database import db
from service.ledger.database.states import ErasureStatus, IllegalMove, RequestStatus, VersionStatus
from service.ledger.database.tables import (
    AliasMove,
    Artifact,
    AuditEvent,
    Dataset,
    Model,
    Record,
    Version,
)
from service.ledger.registry import forgotten, imports, internal_state, lineage, versions
from service.ledger.selection import record_lists
from tests import factories
from tests.factories import NOW


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session, rows=10)


@pytest.fixture
def model(session: Session, data: Dataset) -> Model:
    return factories.model(session, data)


def exclude(session: Session, data: Dataset, *rows: int) -> int:
    """As the claim of a batch does."""
    data.revision += 1
    for row in rows:
        session.get_one(Record, (data.id, row)).excluded_revision = data.revision
    session.flush()
    return data.revision


def forget(session: Session, data: Dataset, model: Model, base: Version, *rows: int):
    """A completed deletion of these rows and the version that it gave."""
    request = factories.request(session, data, rows=rows)
    exclude(session, data, *rows)
    return request, factories.unlearned(session, model, base, [request])


def promote(session: Session, model: Model, version: Version, *, expected: int | None) -> None:
    versions.promote(
        session,
        model,
        version,
        expected_production=expected,
        reason="test",
        actor="key:k",
        now=NOW,
    )


def test_version_before_a_deletion_contains_it_and_the_one_after_does_not(
    session: Session, data: Dataset, model: Model
) -> None:
    before = factories.version(session, model)
    request, after = forget(session, data, model, before, 2, 3)
    assert forgotten.requests_in(session, model, before) == [request.id]
    assert forgotten.requests_in(session, model, after) == []


def test_chain_lists_the_batches_since_the_anchor_oldest_first(
    session: Session, data: Dataset, model: Model
) -> None:
    anchor = factories.version(session, model)
    _, second = forget(session, data, model, anchor, 1)
    _, third = forget(session, data, model, second, 2)
    assert lineage.batch_chain(session, anchor) == []
    assert lineage.batch_chain(session, third) == [second.batch_id, third.batch_id]
    assert forgotten.requests_in(session, model, second) != []
    assert forgotten.requests_in(session, model, third) == []


def test_retrained_anchor_starts_a_chain_of_its_own(
    session: Session, data: Dataset, model: Model
) -> None:
    first = factories.version(session, model)
    request = factories.request(session, data, rows=[1])
    revision = exclude(session, data, 1)
    anchor = factories.unlearned(session, model, first, [request])
    anchor.origin, anchor.anchor_id, anchor.data_revision = "retrained", anchor.id, revision
    lineage.place(session, model, anchor, None)
    assert lineage.batch_chain(session, anchor) == []
    assert forgotten.requests_in(session, model, anchor) == []
    _, after = forget(session, data, model, anchor, 2)
    assert lineage.batch_chain(session, after) == [after.batch_id]


def test_record_in_a_running_batch_is_not_owed_yet(
    session: Session, data: Dataset, model: Model
) -> None:
    version = factories.version(session, model)
    request = factories.request(session, data, rows=[4])
    factories.erasure(session, request, model, status=ErasureStatus.CLAIMED)
    exclude(session, data, 4)
    assert forgotten.requests_in(session, model, version) == []


def test_record_forgotten_once_stays_owed_when_it_is_asked_for_again(
    session: Session, data: Dataset, model: Model
) -> None:
    """An open second request must not open the way back for the first one's record."""
    before = factories.version(session, model)
    request, after = forget(session, data, model, before, 4)
    again = factories.request(session, data, rows=[4])
    factories.erasure(session, again, model)
    with pytest.raises(forgotten.Resurrection) as refused:
        promote(session, model, before, expected=after.id)
    assert request.id in refused.value.extra["deletion_requests"]


def test_deletion_completed_for_one_model_does_not_bind_another_that_still_works_on_it(
    session: Session, data: Dataset, model: Model
) -> None:
    other = factories.model(session, data)
    theirs = factories.version(session, other)
    request, _ = forget(session, data, model, factories.version(session, model), 4)
    factories.erasure(session, request, other)
    assert forgotten.requests_in(session, other, theirs) == []


def test_version_trained_before_a_deletion_and_finished_after_it_owes_it(
    session: Session, data: Dataset, model: Model
) -> None:
    request, live = forget(session, data, model, factories.version(session, model), 5)
    late = factories.version(
        session, model, production=False, status=VersionStatus.CANDIDATE, data_revision=0
    )
    fresh = factories.version(
        session,
        model,
        production=False,
        status=VersionStatus.CANDIDATE,
        data_revision=data.revision,
    )
    assert forgotten.requests_in(session, model, late) == [request.id]
    assert forgotten.requests_in(session, model, fresh) == []
    with pytest.raises(forgotten.Resurrection):
        promote(session, model, late, expected=live.id)
    assert model.production_id == live.id


def test_import_of_weights_trained_before_a_deletion_is_refused(
    session: Session, data: Dataset, model: Model
) -> None:
    request, _ = forget(session, data, model, factories.version(session, model), 5)
    with pytest.raises(forgotten.Resurrection) as refused:
        imports.check(session, model, data_revision=0)
    assert refused.value.extra["deletion_requests"] == [request.id]
    imports.check(session, model, data_revision=data.revision)


def test_import_before_a_deletion_is_withdrawn_by_it(
    session: Session, data: Dataset, model: Model
) -> None:
    live = factories.version(session, model)
    imported = factories.version(session, model, production=False, origin="imported")
    request, after = forget(session, data, model, live, 5)
    assert forgotten.requests_in(session, model, imported) == [request.id]
    with pytest.raises(forgotten.Resurrection):
        promote(session, model, imported, expected=after.id)


def test_rolling_back_over_a_deletion_is_refused_and_without_one_is_not(
    session: Session, data: Dataset, model: Model
) -> None:
    first = factories.version(session, model)
    second = factories.version(session, model)
    promote(session, model, first, expected=second.id)
    assert model.production_id == first.id
    _, third = forget(session, data, model, first, 1)
    with pytest.raises(forgotten.Resurrection):
        promote(session, model, second, expected=third.id)


def test_records_outside_the_training_split_are_never_contained(session: Session) -> None:
    data = factories.dataset(session, rows=3, splits=[0, 1, 2])
    model = factories.model(session, data)
    before = factories.version(session, model)
    request = factories.request(session, data, rows=[1, 2])
    exclude(session, data, 1, 2)
    factories.erasure(session, request, model, status=ErasureStatus.COMPLETED)
    assert forgotten.requests_in(session, model, before) == []


def test_promotion_is_refused_when_production_moved_since_it_was_read(
    session: Session, model: Model
) -> None:
    first = factories.version(session, model)
    second = factories.version(session, model, production=False)
    third = factories.version(session, model, production=False)
    promote(session, model, second, expected=first.id)
    with pytest.raises(versions.ProductionMoved):
        promote(session, model, third, expected=first.id)


def test_of_two_promotions_at_once_one_wins(database: Engine) -> None:
    sessions = db.session_factory(database)
    with sessions() as session, session.begin():
        model = factories.model(session, factories.dataset(session))
        first = factories.version(session, model)
        others = [factories.version(session, model, production=False).id for _ in range(4)]
        model_id, first_id = model.id, first.id
    start = threading.Barrier(len(others))
    won: list[int] = []

    def run(version_id: int) -> None:
        start.wait()
        try:
            with sessions() as mine, mine.begin():
                model = mine.get_one(Model, model_id)
                version = mine.get_one(Version, version_id)
                promote(mine, model, version, expected=first_id)
            won.append(version_id)
        except versions.ProductionMoved:
            pass

    threads = [threading.Thread(target=run, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sessions() as session:
        assert [session.get_one(Model, model_id).production_id] == won
        assert session.query(AliasMove).count() == 1


def test_promotion_withdraws_every_other_version_that_holds_forgotten_records(
    session: Session, data: Dataset, model: Model
) -> None:
    anchor = factories.version(session, model)
    rejected = factories.version(
        session, model, production=False, parent=anchor, status=VersionStatus.REJECTED
    )
    request = factories.request(session, data, rows=[1])
    exclude(session, data, 1)
    after = factories.unlearned(session, model, anchor, [request], production=False)
    after.status = VersionStatus.CANDIDATE
    clean = factories.version(
        session, model, production=False, data_revision=data.revision, parent=None
    )
    promote(session, model, after, expected=anchor.id)
    states = [session.get_one(Version, one.id).status for one in (anchor, rejected, clean, after)]
    assert states == [
        VersionStatus.RETIRED,
        VersionStatus.RETIRED,
        VersionStatus.PUBLISHED,
        VersionStatus.PUBLISHED,
    ]


@pytest.mark.parametrize(
    "status", [VersionStatus.REJECTED, VersionStatus.RETIRED, VersionStatus.PURGED]
)
def test_withdrawn_or_rejected_version_never_goes_live(
    session: Session, model: Model, status: VersionStatus
) -> None:
    live = factories.version(session, model)
    gone = factories.version(session, model, production=False, status=status)
    with pytest.raises(IllegalMove):
        promote(session, model, gone, expected=live.id)


def test_a_rejection_is_told_in_the_chain(session: Session, model: Model) -> None:
    version = factories.version(
        session, model, production=False, status=VersionStatus.CANDIDATE, published_at=None
    )
    versions.reject(session, model, version, verdict="failed", actor="worker:w")
    session.commit()
    [line] = session.scalars(select(AuditEvent).where(AuditEvent.action == "version:rejected"))
    assert (line.subject, line.data) == (versions.subject(model, version), {"verdict": "failed"})


def test_nothing_is_registered_of_a_withdrawn_model(session: Session, model: Model) -> None:
    def register() -> Version:
        return versions.register(
            session,
            model,
            origin="trained",
            digest="a" * 64,
            size_bytes=1,
            data_revision=0,
            seed=1,
            code_version="1",
            now=NOW,
            actor="worker:w",
        )

    assert register().number == 1
    model.withdrawn_at = NOW
    with pytest.raises(Withdrawn):
        register()


def test_numbers_run_without_gaps_when_several_register_at_once(database: Engine) -> None:
    sessions = db.session_factory(database)
    with sessions() as session, session.begin():
        model_id = factories.model(session, factories.dataset(session)).id
    start = threading.Barrier(4)

    def run(n: int) -> None:
        start.wait()
        for turn in range(3):
            with sessions() as mine, mine.begin():
                versions.register(
                    mine,
                    mine.get_one(Model, model_id),
                    origin="imported",
                    digest=f"{n}{turn}".ljust(64, "0"),
                    size_bytes=1,
                    data_revision=0,
                    seed=0,
                    code_version="0",
                    now=NOW,
                    actor="key:k",
                )

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sessions() as session:
        numbers = sorted(number for (number,) in session.query(Version.number))
    assert numbers == list(range(1, 13))


def test_live_version_that_must_stay_is_checked_under_lock(session: Session, model: Model) -> None:
    first = factories.version(session, model)
    second = factories.version(session, model)
    versions.require_production(session, second)
    with pytest.raises(versions.ProductionMoved):
        versions.require_production(session, first)


def test_same_artifact_twice_is_one(session: Session, model: Model) -> None:
    version = factories.version(session, model)
    cache = {"kind": "caches", "digest": "c" * 64, "size_bytes": 1}
    for _ in range(2):
        internal_state.attach(session, version, [cache], now=NOW)
    made = session.query(Artifact).one()
    assert internal_state.newest(session, version.id, "caches") == made
    made.destroyed_at = NOW
    session.flush()
    assert internal_state.newest(session, version.id, "caches") is None


def test_a_version_of_a_list_contains_its_rows_and_no_others(session: Session) -> None:
    data = factories.dataset(session, rows=8, splits=[0, 0, 0, 0, 1, 1, 2, 2])
    owner = factories.model(session, data)
    listed = record_lists.create(
        session, data, ["r1", "r2", "r4", "r6"], actor="key:test", now=factories.NOW
    )
    anchor = factories.version(session, owner, origin="imported", record_list_id=listed.id)
    later = factories.version(session, owner, parent=anchor, record_list_id=listed.id)
    for version in (anchor, later):
        inside = session.scalars(
            select(Record.row)
            .where(Record.dataset_id == data.id, lineage.contained(session, version))
            .order_by(Record.row)
        ).all()
        assert inside == [1, 2, 4, 6]


def test_only_listed_rows_are_owed_by_a_version_of_a_list(session: Session) -> None:
    data = factories.dataset(session, rows=8, splits=[0, 0, 0, 0, 1, 1, 2, 2])
    owner = factories.model(session, data)
    listed = record_lists.create(
        session, data, ["r1", "r2", "r6"], actor="key:test", now=factories.NOW
    )
    anchor = factories.version(session, owner, origin="imported", record_list_id=listed.id)
    asked = factories.request(session, data, rows=[0, 3], status=RequestStatus.COMPLETED)
    for row in (0, 3):
        session.get_one(Record, (data.id, row)).excluded_revision = 1
    session.flush()
    assert forgotten.requests_in(session, owner, anchor) == []
    again = factories.request(session, data, rows=[6], status=RequestStatus.COMPLETED)
    session.get_one(Record, (data.id, 6)).excluded_revision = 2
    session.flush()
    assert forgotten.requests_in(session, owner, anchor) == [again.id]
    assert asked.id != again.id
