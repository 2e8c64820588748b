"""Purging: weights and internal state are destroyed in their time, with a signed receipt."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from models_store import open_store
from service import audit_file
from service.ledger.audit import canonical, signing
from service.ledger.batches import pools
from service.ledger.database.states import BatchStatus, VersionStatus
from service.ledger.database.tables import Artifact, AuditEvent, Lease, Model, Version
from service.ledger.destruction import purges, stored_files, superseded
from service.ledger.registry import internal_state
from service.ledger.reports import report
from tests.stored import load, save
from tests.workers.place import Place
from workers import fault_points
from workers.fault_points import InjectedFault
from workers.jobs import computing, purge


def receipts(town: Place) -> list[AuditEvent]:
    with town.runtime.session() as session:
        wanted = select(AuditEvent).filter_by(action="version:purged").order_by(AuditEvent.seq)
        return list(session.scalars(wanted))


def delete_twice(town: Place) -> list[Version]:
    """Versions 1 (the anchor), 2 and 3; 1 and 2 are retired."""
    rows = town.training_rows()
    for row in rows[:2]:
        town.ask(row)
        town.work()
    return town.versions()


def test_retired_version_is_destroyed_and_its_anchor_kept_while_the_chain_lives(
    town: Place,
) -> None:
    anchor, middle, live = delete_twice(town)
    with town.runtime.session() as session:
        state = internal_state.newest(session, middle.id, "states")
    assert state is not None
    store = town.settings.store
    assert purge.run_due(town.runtime)
    assert not open_store(store).blobs.exists("checkpoints", middle.digest)
    assert not open_store(store).blobs.exists("states", state.digest)
    for kept in (anchor, live):
        open_store(store).blobs.verify("checkpoints", kept.digest)
    assert not purge.run_due(town.runtime)


def test_receipt_in_the_chain_is_signed_and_names_what_was_destroyed(town: Place) -> None:
    _, middle, _ = delete_twice(town)
    purge.run_due(town.runtime)
    (line,) = receipts(town)
    receipt = line.data["receipt"]
    keys = signing.read_keys(signing.public_keys(town.settings))
    assert signing.check(receipt, keys)
    assert {"kind": "checkpoints", "digest": middle.digest} in receipt["destroyed"]
    assert receipt["version"] == "version:m/2"


def test_next_batch_after_a_purge_still_works(town: Place) -> None:
    delete_twice(town)
    purge.run_due(town.runtime)
    town.ask(town.training_rows()[2])
    town.work()
    assert (town.live().number, town.live().method) == (4, "iau")


def test_crash_between_files_and_ledger_is_made_good(town: Place) -> None:
    delete_twice(town)
    town.arm("purge.destroyed", "fault")
    with pytest.raises(InjectedFault):
        purge.run_due(town.runtime)
    assert receipts(town) == []
    assert purge.run_due(town.runtime)
    assert len(receipts(town)) == 1
    assert [version.status for version in town.versions()] == [
        VersionStatus.RETIRED,
        VersionStatus.PURGED,
        VersionStatus.PUBLISHED,
    ]


def test_worker_that_comes_second_purges_nothing_again(town: Place) -> None:
    _, middle, _ = delete_twice(town)
    purge.run_due(town.runtime)
    with town.runtime.lease(f"purge:{middle.id}") as held:
        assert held is not None
        assert not purge._purge(town.runtime, middle.id, held)
    assert len(receipts(town)) == 1


def test_sweep_takes_orphans_older_than_the_grace_and_nothing_else(town: Place) -> None:
    """An orphan is what a worker leaves that was killed between store and ledger."""
    store = town.settings.store
    with town.runtime.session() as session:
        used = stored_files.files_in_use(session)
    weights = load(store, town.live().digest)
    old, young = (save(store, {n: t + by for n, t in weights.items()}, {}).digest for by in (1, 2))
    past = time.time() - 10 * town.settings.orphan_grace_seconds
    for digest in (old, *used["checkpoints"]):
        home = store / "checkpoints" / digest
        for path in (*home.iterdir(), home):
            os.utime(path, (past, past))
    purge.sweep(town.runtime)
    assert set(open_store(store).blobs.digests("checkpoints")) == {*used["checkpoints"], young}
    assert town.array().rows.any()


def test_a_version_whose_weights_were_swept_before_it_was_recorded_is_computed_again(
    town: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verification may take longer than the grace, and a worker's clock may be ahead."""
    swept: list[str] = []

    def sweep(point: str) -> None:
        if point == "batch.computed" and not swept:
            with town.runtime.session() as session:
                used = stored_files.files_in_use(session)["checkpoints"]
            blobs = town.runtime.store.blobs
            orphans = sorted(set(blobs.digests("checkpoints")) - used)
            swept.extend(one for one in orphans if blobs.delete("checkpoints", one))
        fault_points.reach(point)

    monkeypatch.setattr(computing, "reach", sweep)
    before = town.live().number
    town.ask(town.training_rows()[0])
    for _ in range(2):  # the second attempt may be part of the first call
        town.work()
    live = town.live()
    assert live.number == before + 1
    assert swept == [live.digest]
    first, second = town.batches()
    assert (first.status, second.status) == (BatchStatus.FAILED, BatchStatus.COMPLETED)
    assert "not in the store any more" in (first.error or "")
    open_store(town.settings.store).blobs.verify("checkpoints", live.digest)


def test_a_file_that_a_version_refers_to_by_now_is_not_purged(town: Place) -> None:
    """A computation may give the weights of a version that is being purged."""
    _, middle, live = delete_twice(town)
    asked = 0

    def files_of(session: Session) -> list[tuple[stored_files.Kind, str]]:
        nonlocal asked
        asked += 1
        if asked == 2:
            again = session.get_one(Version, live.id)
            again.digest = middle.digest
            session.flush()
        return purges.files_of_version(session, session.get_one(Version, middle.id))

    with town.runtime.lease(purge.key(middle.id)) as held:
        assert held is not None
        files = purge._unlinked(town.runtime, files_of, held)
    assert ("checkpoints", middle.digest) not in files
    assert town.runtime.store.blobs.exists("checkpoints", middle.digest)


def test_sweeping_is_shared_between_workers(town: Place) -> None:
    # A grace of a day, so that the lease is in force however slowly this runs.
    settings = town.settings.model_copy(update={"orphan_grace_seconds": 86_400.0})
    first, second = (replace(one, settings=settings) for one in (town.runtime, town.second()))
    purge.sweep(first)
    purge.sweep(second)
    with town.runtime.session() as session:
        lease = session.get_one(Lease, purge.SWEEP_LEASE)
        assert (lease.owner, lease.fence) == ("w1", 1)
        lease.until = first.now()  # six hours later
    purge.sweep(second)
    with town.runtime.session() as session:
        lease = session.get_one(Lease, purge.SWEEP_LEASE)
        assert (lease.owner, lease.fence) == ("w2", 2)


def test_a_sweep_that_is_not_due_waits_for_no_writer(town: Place) -> None:
    settings = town.settings.model_copy(update={"orphan_grace_seconds": 86_400.0})
    first, second = (replace(one, settings=settings) for one in (town.runtime, town.second()))
    purge.sweep(first)
    with first.session() as session:
        session.scalar(select(Lease.fence))  # on SQLite nobody else can write meanwhile
        purge.sweep(second)
        assert session.get_one(Lease, purge.SWEEP_LEASE).fence == 1


def test_running_sums_are_kept_of_the_live_version_alone(town: Place) -> None:
    """The windows are a day; sums as large as the model, twice over, would add up until then."""
    town.change_policy(purge_after_seconds=86_400)
    for row in town.training_rows()[:4]:
        town.ask(row)
        town.work()
        purge.run_due(town.runtime)
    live = town.live()
    with town.runtime.session() as session:
        states = session.scalars(select(Artifact).filter_by(kind="states", destroyed_at=None)).all()
        scores = session.scalars(select(Artifact).filter_by(kind="scores", destroyed_at=None)).all()
    assert [one.version_id for one in states] == [live.id]
    assert open_store(town.settings.store).blobs.digests("states") == [states[0].digest]
    # All four batches are needed to judge the next one of a single row.
    assert len(scores) == 4
    for version in town.versions():
        open_store(town.settings.store).blobs.verify("checkpoints", version.digest)
    with town.runtime.session() as session:
        wanted = select(AuditEvent).filter_by(action="version:state_destroyed")
        lines = session.scalars(wanted.order_by(AuditEvent.seq)).all()
    assert [line.subject for line in lines] == ["version:m/2", "version:m/3", "version:m/4"]
    receipt = lines[0].data["receipt"]
    assert signing.check(receipt, signing.read_keys(signing.public_keys(town.settings)))
    assert [one["kind"] for one in receipt["destroyed"]] == ["states"]
    with town.runtime.session() as session:
        told = report.report(
            session,
            session.get_one(Version, live.id),
            digester=town.runtime.digester,
            signer=signing.Signer.from_settings(town.settings),
            now=town.runtime.now(),
        )
    assert len(told["purges"]) == 3
    checked = audit_file.verify_bytes(canonical.encode(told))
    assert checked.ok, checked.lines()
    town.ask(town.training_rows()[4])
    town.work()
    assert (town.live().number, town.live().method) == (6, "iau")


def test_scores_are_kept_as_far_back_as_a_pool_reaches(
    town: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "ROWS", 2)
    town.change_policy(purge_after_seconds=86_400, gates={"pool_below_rows": 2})
    for row in town.training_rows()[:4]:
        town.ask(row)
        town.work()
        purge.run_due(town.runtime)
    with town.runtime.session() as session:
        kept = session.scalars(
            select(Version.number)
            .join(Artifact, Artifact.version_id == Version.id)
            .where(Artifact.kind == "scores", Artifact.destroyed_at.is_(None))
            .order_by(Version.number)
        ).all()
    assert kept == [4, 5]


def test_sums_of_a_version_that_may_go_live_again_are_kept(town: Place) -> None:
    town.ask(town.training_rows()[0])
    town.work()
    first = town.live()
    with town.runtime.session() as session:
        model = session.get_one(Model, first.model_id)
        assert superseded.of_model(session, model) == {}
        session.get_one(Version, first.id).status = VersionStatus.RETIRED
        assert list(superseded.of_model(session, model)) == [first.id]
        assert superseded.models(session) == [model.id]
        session.rollback()
