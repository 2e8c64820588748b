"""Retrains inside batches that are interrupted: they go on, and leave nothing behind."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from models_store import open_store
from service import audit_file
from service.ledger.audit import canonical
from service.ledger.audit.signing import Signer
from service.ledger.batches import leases
from service.ledger.database.states import BatchStatus
from service.ledger.database.tables import (
    AuditEvent,
    Batch,
    BatchState,
    Dataset,
    Model,
    Record,
    Version,
)
from service.ledger.destruction import withdrawals
from service.ledger.registry.policy import MethodChoice
from service.ledger.reports import report
from service.messages.unlearn import UNLEARN, Answer
from tests.workers.jobs.test_interrupted_training import kept, sweep
from tests.workers.place import Place
from tests.workers.schedule.test_lanes import DEADLINE_SECONDS, running, until
from tests.workers.schedule.test_lanes_by_cost import completed, live
from workers.fault_points import InjectedFault
from workers.jobs import pipeline, plans, purge, restore
from workers.schedule import lanes

#: It kills real processes: `make test-faults`.
pytestmark = pytest.mark.slow

RETRAIN = MethodChoice(method="retrain")


@pytest.fixture
def keeping(town: Place) -> Place:
    """Every batch retrains, and the state of every epoch is kept."""
    town.settings = town.settings.model_copy(update={"training_state_seconds": 0.0})
    town.runtime.settings = town.settings
    town.change_policy(method="retrain", fallbacks=[])
    return town


def leave(town: Place, *rows: int) -> tuple[str, Batch]:
    """A request for rows whose batch is left to the trainings lane; its id, and the batch."""
    request = town.ask(*rows)
    pipeline.run_steps_due(town.runtime)
    return request, town.batches()[-1]


def uninterrupted(town: Place, batch: Batch) -> Answer:
    """What the batch's retrain gives where nothing interrupts it."""
    with town.runtime.session() as session:
        found = session.get_one(Batch, batch.id)
        request = plans.for_batch(session, town.runtime.store, found, RETRAIN)
    return town.runtime.compute.call(UNLEARN, request, timeout_seconds=60)


def die(town: Place) -> str:
    """The worker that retrains dies after an epoch; the digest of what it kept."""
    town.arm("batch.kept", "fault")
    with pytest.raises(InjectedFault):
        pipeline.run_trainings_due(town.runtime)
    digest = state(town).digest
    sweep(town, digest)
    return digest


def state(town: Place) -> BatchState:
    with town.runtime.session() as session:
        return session.scalars(select(BatchState)).one()


def states(town: Place) -> list[str]:
    with town.runtime.session() as session:
        return list(session.scalars(select(BatchState.digest)))


def forget_elsewhere(town: Place, row: int) -> None:
    """Exclude a row as another model's batch does, asked of ``m`` as well."""
    with town.runtime.session() as session:
        dataset = session.scalars(select(Dataset)).one()
        dataset.revision += 1
        found = session.get_one(Record, (dataset.id, row))
        found.excluded_revision = dataset.revision


def destroyed(town: Place) -> list[str]:
    with town.runtime.session() as session:
        lines = session.scalars(select(AuditEvent).filter_by(action="batch:state_destroyed"))
        return [line.subject for line in lines]


def test_interrupted_retrain_goes_on_and_ends_as_if_nothing_had_been(keeping: Place) -> None:
    request, batch = leave(keeping, *keeping.training_rows()[:3])
    expected = uninterrupted(keeping, batch)
    digest = die(keeping)
    assert kept(keeping) == [digest]
    assert pipeline.run_trainings_due(keeping.second())
    assert completed(keeping, request)
    made = live(keeping, "m")
    assert made.notes["resumed_after_epochs"] == 1
    assert made.digest == expected.checkpoint.digest
    # Nothing of the state stays, neither in the store nor in the ledger.
    assert (kept(keeping), states(keeping)) == ([], [])
    assert destroyed(keeping) == [f"batch:{batch.id}"]


def test_retrain_longer_than_any_workers_life_ends_all_the_same(keeping: Place) -> None:
    request, _ = leave(keeping, keeping.training_rows()[0])
    seen = [die(keeping) for _ in range(keeping.settings.max_attempts + 2)]
    assert len(set(seen)) == len(seen)
    assert kept(keeping) == [seen[-1]]
    assert pipeline.run_trainings_due(keeping.second())
    assert completed(keeping, request)
    assert live(keeping, "m").notes["resumed_after_epochs"] == len(seen)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_retrain_of_a_real_worker_survives_its_end(
    keeping: Place, tmp_path: Path, end: str
) -> None:
    request, batch = leave(keeping, *keeping.training_rows()[:3])
    expected = uninterrupted(keeping, batch)
    settings = keeping.settings.model_copy(
        update={"poll_seconds": 0.1, "grace_seconds": 20.0, "lease_seconds": 1.0}
    )
    keeping.arm("batch.kept", "kill" if end == "kill" else "wait")
    with running(settings, tmp_path / "first.log") as worker:
        until(lambda: not keeping.armed("batch.kept"), "the first epoch")
        if end == "stop":
            worker.terminate()
            (keeping.faults / "batch.kept.go").touch()
        worker.wait(DEADLINE_SECONDS)
    (left,) = keeping.batches()
    assert (left.status, left.trains, left.attempts) == (BatchStatus.RUNNING, True, 1)
    assert (left.fence == 0) == (end == "stop")
    with running(settings, tmp_path / "second.log"):
        until(lambda: completed(keeping, request), "the end of the batch")
    made = live(keeping, "m")
    # The signal may reach the worker an epoch later.
    assert made.notes["resumed_after_epochs"] >= 1
    assert made.digest == expected.checkpoint.digest


def test_damaged_state_is_not_gone_on_from(keeping: Place) -> None:
    request, batch = leave(keeping, keeping.training_rows()[0])
    expected = uninterrupted(keeping, batch)
    keeping.damage("trainings", die(keeping))
    assert pipeline.run_trainings_due(keeping.second())
    assert completed(keeping, request)
    made = live(keeping, "m")
    assert "resumed_after_epochs" not in made.notes
    assert made.digest == expected.checkpoint.digest
    assert kept(keeping) == []


def test_rows_that_a_state_has_seen_stand_until_its_batch_has_ended(keeping: Place) -> None:
    rows = keeping.training_rows()[:4]
    request, _ = leave(keeping, *rows[:3])
    die(keeping)
    later = keeping.ask(rows[3])
    forget_elsewhere(keeping, rows[3])
    lanes.make("background", keeping.runtime).run()
    lanes.make("deletions", keeping.runtime).run()
    assert keeping.array().rows[rows[3]].any()
    with keeping.runtime.session() as session:
        told = report.report(
            session,
            session.get_one(Version, live(keeping, "m").id),
            digester=keeping.runtime.digester,
            signer=Signer.from_settings(keeping.settings),
            now=keeping.runtime.now(),
        )
    left = [one for one in told["remaining"] if one["kind"] == "trainings"]
    assert [one["batch"] for one in left] == [state(keeping).batch_id]
    checked = audit_file.verify_bytes(canonical.encode(told))
    assert checked.ok, checked.lines()
    # It goes on with the rows that it began with; the later request is the next batch's.
    revision = state(keeping).data_revision
    assert pipeline.run_trainings_due(keeping.runtime)
    assert completed(keeping, request)
    made = live(keeping, "m")
    assert (made.notes["resumed_after_epochs"], made.data_revision) == (1, revision)
    keeping.work()
    assert completed(keeping, later)
    assert keeping.forgotten() == rows
    assert not keeping.array().rows[rows].any()


def test_validation_row_stands_until_the_retrain_that_chose_by_it_has_ended(
    keeping: Place,
) -> None:
    """No erasure of the model keeps it: only the state does."""
    leave(keeping, keeping.training_rows()[0])
    die(keeping)
    with keeping.runtime.session() as session:
        row = session.scalars(select(Record.row).filter_by(split=1)).first()
    assert row is not None
    forget_elsewhere(keeping, row)
    lanes.make("deletions", keeping.runtime).run()
    assert keeping.array().rows[row].any()
    pipeline.run_trainings_due(keeping.runtime)
    lanes.make("deletions", keeping.runtime).run()
    assert live(keeping, "m").notes["resumed_after_epochs"] == 1
    assert not keeping.array().rows[row].any()


def test_retrain_whose_rows_are_erased_all_the_same_starts_anew(keeping: Place) -> None:
    request, _ = leave(keeping, keeping.training_rows()[0])
    digest = die(keeping)
    with keeping.runtime.session() as session:
        row = session.scalars(select(Record.row).filter_by(split=1)).first()
        array = session.scalars(select(Dataset.array_key)).one()
    assert row is not None
    assert array is not None
    forget_elsewhere(keeping, row)
    with keeping.runtime.session() as session:
        session.scalars(select(Record).filter_by(row=row)).one().erased_at = keeping.runtime.now()
    open_store(keeping.settings.store).rows.erase(array, [row])
    pipeline.run_trainings_due(keeping.second())
    assert completed(keeping, request)
    assert digest not in kept(keeping)
    assert "resumed_after_epochs" not in live(keeping, "m").notes


def test_state_goes_with_a_model_that_is_withdrawn(keeping: Place) -> None:
    leave(keeping, keeping.training_rows()[0])
    digest = die(keeping)
    assert kept(keeping) == [digest]
    with keeping.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        withdrawals.withdraw_model(session, model, actor="key:k", now=keeping.runtime.now())
    lanes.make("background", keeping.runtime).run()
    assert (kept(keeping), states(keeping)) == ([], [])


def test_state_goes_with_a_retrain_that_another_method_follows(keeping: Place) -> None:
    keeping.change_policy(fallbacks=[{"method": "iau"}])
    request, _ = leave(keeping, keeping.training_rows()[0])
    digest = die(keeping)
    assert kept(keeping) == [digest]
    keeping.arm("compute.updated", "spoil")  # what the retrain gives is no model
    keeping.arm("batch.recording", "fault")
    with pytest.raises(InjectedFault):  # the record of the method that follows
        pipeline.run_trainings_due(keeping.runtime)
    assert (kept(keeping), states(keeping)) == ([], [])
    assert keeping.batches()[0].status == BatchStatus.RUNNING
    pipeline.run_trainings_due(keeping.second())
    assert completed(keeping, request)


def test_nothing_goes_on_from_a_state_of_before_a_restore(keeping: Place, tmp_path: Path) -> None:
    request, _ = leave(keeping, keeping.training_rows()[0])
    die(keeping)
    listed = tmp_path / "tombstones.json"
    restore.export(keeping.settings, keeping.runtime.engine, listed)
    restore.apply(keeping.settings, keeping.runtime.engine, listed, actor="cli")
    lanes.make("background", keeping.runtime).run()
    assert (kept(keeping), states(keeping)) == ([], [])
    pipeline.run_trainings_due(keeping.runtime)
    assert completed(keeping, request)
    assert "resumed_after_epochs" not in live(keeping, "m").notes


def test_sweep_spares_the_state_of_a_batch(keeping: Place) -> None:
    leave(keeping, keeping.training_rows()[0])
    digest = die(keeping)
    past = time.time() - 10 * keeping.settings.orphan_grace_seconds
    home = keeping.settings.store / "trainings" / digest
    for path in (*home.iterdir(), home):
        os.utime(path, (past, past))
    purge.sweep(keeping.runtime)
    assert kept(keeping) == [digest]


def test_worker_that_was_overtaken_notes_no_state(keeping: Place) -> None:
    leave(keeping, keeping.training_rows()[0])
    with keeping.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        name = leases.of_model(model.id)
    keeping.arm("batch.kept", "wait")
    working = threading.Thread(target=pipeline.run_trainings_due, args=(keeping.runtime,))
    working.start()
    until(lambda: not keeping.armed("batch.kept"), "the first epoch")
    first = state(keeping).digest
    with keeping.second().session() as session:
        leases.revoke(session, name, now=keeping.runtime.now())
    (keeping.faults / "batch.kept.go").touch()
    working.join(DEADLINE_SECONDS)
    assert not working.is_alive()
    assert state(keeping).digest == first
    assert keeping.batches()[0].status == BatchStatus.RUNNING
