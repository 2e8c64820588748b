"""Training runs that are interrupted, cancelled, or give way to a batch."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from models_store import open_store
from service.errors import Conflict
from service.ledger.audit.signing import Signer
from service.ledger.database.states import RequestStatus, RunStatus, VersionStatus
from service.ledger.database.tables import AuditEvent, Dataset, Model, Record, TrainingRun, Version
from service.ledger.registry import forgotten
from service.ledger.reports import report
from service.ledger.training import runs
from tests.workers.jobs.test_train import get, queue
from tests.workers.place import Place
from tests.workers.schedule.test_lanes import DEADLINE_SECONDS, running, until
from tests.workers.schedule.test_lanes_by_cost import ask, completed, live, second_model
from workers.compute.process import ComputeProcess
from workers.fault_points import InjectedFault
from workers.jobs import pipeline, train
from workers.runtime import Runtime
from workers.schedule import lanes

#: It kills real processes: `make test-faults`.
pytestmark = pytest.mark.slow


@pytest.fixture
def keeping(town: Place) -> Place:
    """Every epoch's state is kept."""
    town.settings = town.settings.model_copy(update={"training_state_seconds": 0.0})
    town.runtime.settings = town.settings
    return town


@pytest.fixture
def other_worker(keeping: Place) -> Iterator[Runtime]:
    """A worker with a compute process of its own, to train in a thread."""
    own = ComputeProcess(device="cpu", threads=1)
    yield Runtime(keeping.settings, keeping.runtime.engine, own, owner="w3")
    own.kill()


def kept(town: Place) -> list[str]:
    """Digests of the states of trainings in the store."""
    return open_store(town.settings.store).blobs.digests("trainings")


def sweep(town: Place, noted: str) -> None:
    """Remove the state, if any, that the killed process stored last and nobody noted."""
    blobs = open_store(town.settings.store).blobs
    for digest in set(kept(town)) - {noted}:
        assert blobs.delete("trainings", digest)


def interrupt(town: Place, *, seed: int = 1) -> str:
    """A run whose worker died after its first epoch; its id."""
    run_id = queue(town, seed=seed)
    town.arm("train.kept", "fault")
    with pytest.raises(InjectedFault):
        train.run_due(town.runtime)
    digest = get(town, run_id).state_digest
    assert digest is not None
    sweep(town, digest)
    return run_id


def train_for_long(town: Place) -> None:
    """Have the next run of ``m`` go on until somebody ends it."""
    with town.runtime.session() as session:
        model = session.scalars(select(Model).filter_by(name="m")).one()
        model.recipe = model.recipe | {"epochs": 10_000, "patience": 10_000}


def in_a_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def trains(town: Place, run_id: str) -> bool:
    run = get(town, run_id)
    return run.status == RunStatus.RUNNING and run.state_digest is not None


def audit(town: Place, action: str) -> list[dict]:
    with town.runtime.session() as session:
        return [line.data for line in session.scalars(select(AuditEvent).filter_by(action=action))]


def remaining(town: Place) -> list[tuple[str, str | None]]:
    """What the live version's report lists as still carrying forgotten records."""
    live = town.live()
    with town.runtime.session() as session:
        made = report.report(
            session,
            session.get_one(Version, live.id),
            digester=town.runtime.digester,
            signer=Signer.from_settings(town.settings),
            now=town.runtime.now(),
        )
    return [(left["kind"], left.get("training_run")) for left in made["remaining"]]


def test_interrupted_training_goes_on_and_ends_as_if_nothing_had_been(keeping: Place) -> None:
    run_id = interrupt(keeping)
    assert get(keeping, run_id).state_digest in kept(keeping)
    assert train.run_due(keeping.second())
    assert get(keeping, run_id).status == RunStatus.COMPLETED
    first, second = keeping.versions()
    assert second.notes["resumed_after_epochs"] == 1
    assert second.digest == first.digest  # the same seed, and the first was not interrupted
    assert first.training_run_id is not None
    curves = [get(keeping, one).curve for one in (first.training_run_id, run_id)]
    assert curves[0] == curves[1]
    # Nothing of the state stays, neither in the store nor in the ledger.
    assert kept(keeping) == []
    assert get(keeping, run_id).state_digest is None
    assert audit(keeping, "training_run:state_destroyed")[-1]["training_run"] == run_id


def test_state_is_destroyed_when_a_later_one_is_noted(keeping: Place) -> None:
    run_id = queue(keeping)
    noted: list[str | None] = []
    for _ in range(2):
        keeping.arm("train.kept", "fault")
        with pytest.raises(InjectedFault):
            train.run_due(keeping.runtime)
        noted.append(get(keeping, run_id).state_digest)
    assert noted[0] not in kept(keeping)
    assert noted[1] in kept(keeping)


def test_progress_starts_the_count_of_attempts_again(keeping: Place) -> None:
    """A training longer than any worker's life ends all the same."""
    run_id = queue(keeping)
    for _ in range(keeping.settings.max_attempts + 1):
        keeping.arm("train.kept", "fault")
        with pytest.raises(InjectedFault):
            train.run_due(keeping.runtime)
    train.run_due(keeping.runtime)
    assert get(keeping, run_id).status == RunStatus.COMPLETED


def test_damaged_state_is_not_gone_on_from(keeping: Place) -> None:
    run_id = interrupt(keeping)
    digest = get(keeping, run_id).state_digest
    assert digest is not None
    keeping.damage("trainings", digest)
    assert train.run_due(keeping.second())
    assert get(keeping, run_id).status == RunStatus.COMPLETED
    first, second = keeping.versions()
    assert "resumed_after_epochs" not in second.notes
    assert second.digest == first.digest
    assert kept(keeping) == []


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_training_of_a_real_worker_survives_its_end(
    keeping: Place, tmp_path: Path, end: str
) -> None:
    settings = keeping.settings.model_copy(
        update={"poll_seconds": 0.1, "grace_seconds": 5.0, "lease_seconds": 1.0}
    )
    keeping.arm("train.kept", "kill" if end == "kill" else "wait")
    with running(settings, tmp_path / "first.log") as worker:
        run_id = queue(keeping, seed=1)
        until(lambda: not keeping.armed("train.kept"), "the first epoch")
        if end == "stop":
            worker.terminate()
            (keeping.faults / "train.kept.go").touch()
        worker.wait(DEADLINE_SECONDS)
    if end == "stop":
        run = get(keeping, run_id)
        assert (run.status, run.attempts) == (RunStatus.QUEUED, 0)
    with running(settings, tmp_path / "second.log"):
        until(lambda: get(keeping, run_id).status == RunStatus.COMPLETED, "the end of the run")
    first, second = keeping.versions()
    # More than one where the next epoch was quicker than the end.
    assert second.notes["resumed_after_epochs"] >= 1
    assert second.digest == first.digest


def test_deletion_made_while_a_run_is_interrupted_is_owed_by_its_version(keeping: Place) -> None:
    run_id = interrupt(keeping, seed=2)
    rows = keeping.training_rows()[:3]
    request = keeping.ask(*rows)
    keeping.work()
    assert keeping.live().number == 2
    # The state has seen the rows: they stand until its version has forgotten them.
    assert keeping.request(request).status == RequestStatus.PROCESSING
    assert keeping.array().rows[rows].any()
    assert ("trainings", run_id) in remaining(keeping)
    train.run_due(keeping.runtime)
    assert "trainings" not in dict(remaining(keeping))
    candidate = keeping.versions()[-1]
    assert candidate.notes["resumed_after_epochs"] == 1
    assert candidate.status == VersionStatus.CANDIDATE
    assert get(keeping, run_id).data_revision == candidate.data_revision
    keeping.work()
    assert keeping.request(request).status == RequestStatus.COMPLETED
    assert keeping.live().anchor_id == candidate.id
    assert not keeping.array().rows[rows].any()
    served = keeping.live()
    with keeping.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        assert forgotten.requests_in(session, model, served) == []


def test_run_whose_rows_are_erased_all_the_same_starts_anew(keeping: Place) -> None:
    run_id = interrupt(keeping, seed=2)
    digest = get(keeping, run_id).state_digest
    row = keeping.training_rows()[0]
    keeping.ask(row)
    keeping.work()
    before = get(keeping, run_id).data_revision
    with keeping.runtime.session() as session:
        session.scalars(select(Record).filter_by(row=row)).one().erased_at = keeping.runtime.now()
        array = session.scalars(select(Dataset.array_key)).one()
    assert array is not None
    open_store(keeping.settings.store).rows.erase(array, [row])
    train.run_due(keeping.runtime)
    run = get(keeping, run_id)
    assert run.status == RunStatus.COMPLETED
    assert run.data_revision > before
    assert digest not in kept(keeping)
    assert "resumed_after_epochs" not in keeping.versions()[-1].notes


def test_running_training_is_cancelled_within_seconds(
    keeping: Place, other_worker: Runtime
) -> None:
    train_for_long(keeping)
    run_id = queue(keeping)
    working = in_a_thread(lambda: train.run_due(other_worker))
    until(lambda: trains(keeping, run_id), "a first epoch")
    pid = other_worker.compute.pid
    assert pid is not None
    with keeping.runtime.session() as session:
        run = session.get_one(TrainingRun, run_id)
        runs.cancel(session, run, actor="key:k", now=keeping.runtime.now())
    working.join(DEADLINE_SECONDS)
    assert not working.is_alive()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    run = get(keeping, run_id)
    assert (run.status, run.state_digest) == (RunStatus.CANCELLED, None)
    assert run.finished_at is not None
    assert kept(keeping) == []
    assert [version.number for version in keeping.versions()] == [1]
    assert [line["training_run"] for line in audit(keeping, "training_run:cancelled")] == [run_id]
    # The next one is free to begin.
    assert get(keeping, queue(keeping)).status == RunStatus.QUEUED


def test_run_that_is_cancelled_while_its_version_is_recorded_makes_none(keeping: Place) -> None:
    run_id = queue(keeping)
    keeping.arm("train.computed", "wait")
    working = in_a_thread(lambda: train.run_due(keeping.runtime))
    until(lambda: not keeping.armed("train.computed"), "the end of the training")
    with keeping.second().session() as session:
        run = session.get_one(TrainingRun, run_id)
        runs.cancel(session, run, actor="key:k", now=keeping.runtime.now())
    (keeping.faults / "train.computed.go").touch()
    working.join(DEADLINE_SECONDS)
    assert kept(keeping) == []
    assert get(keeping, run_id).status == RunStatus.CANCELLED
    assert [version.number for version in keeping.versions()] == [1]


def test_waiting_run_whose_state_was_kept_is_cancelled_with_it(keeping: Place) -> None:
    run_id = interrupt(keeping)
    assert kept(keeping)
    with keeping.runtime.session() as session:
        run = session.get_one(TrainingRun, run_id)
        for _ in range(2):  # the second time nothing happens
            runs.cancel(session, run, actor="key:k", now=keeping.runtime.now())
    assert len(audit(keeping, "training_run:cancelled")) == 1
    lanes.make("background", keeping.runtime).run()
    assert kept(keeping) == []
    assert get(keeping, run_id).state_digest is None
    assert not train.run_due(keeping.runtime)


def test_deletion_no_longer_waits_for_a_run_that_was_cancelled(keeping: Place) -> None:
    run_id = interrupt(keeping)
    request = keeping.ask(keeping.training_rows()[0])
    keeping.work()
    assert keeping.request(request).status == RequestStatus.PROCESSING
    with keeping.runtime.session() as session:
        run = session.get_one(TrainingRun, run_id)
        runs.cancel(session, run, actor="key:k", now=keeping.runtime.now())
    keeping.work()
    assert keeping.request(request).status == RequestStatus.COMPLETED


def test_run_that_has_ended_cannot_be_cancelled(keeping: Place) -> None:
    run_id = queue(keeping)
    train.run_due(keeping.runtime)
    with keeping.runtime.session() as session:
        run = session.get_one(TrainingRun, run_id)
        with pytest.raises(Conflict, match="is completed"):
            runs.cancel(session, run, actor="key:k", now=keeping.runtime.now())


def test_training_gives_way_to_a_batch_that_trains_and_goes_on_afterwards(
    keeping: Place, other_worker: Runtime
) -> None:
    second_model(keeping)
    with keeping.runtime.session() as session:
        other = session.scalars(select(Model).filter_by(name="other")).one()
        other.policy = other.policy | {"method": "retrain", "fallbacks": []}
    train_for_long(keeping)
    run_id = queue(keeping)
    working = in_a_thread(lambda: lanes.make("trainings", other_worker).run())
    until(lambda: trains(keeping, run_id), "a first epoch")
    request = ask(keeping, "others", keeping.training_rows()[0])
    pipeline.run_steps_due(keeping.runtime)
    until(lambda: completed(keeping, request), "the batch")
    assert live(keeping, "other").method == "retrain"
    until(lambda: trains(keeping, run_id), "the training going on")
    assert any(line.get("resumed") for line in audit(keeping, "training_run:started"))
    with keeping.runtime.session() as session:
        run = session.get_one(TrainingRun, run_id)
        runs.cancel(session, run, actor="key:k", now=keeping.runtime.now())
    working.join(DEADLINE_SECONDS)
    assert not working.is_alive()
