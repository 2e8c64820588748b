"""Withdrawals while a batch, a training or an ingest runs, or that are interrupted themselves."""

from __future__ import annotations

import signal as signals
import subprocess
import sys

import pytest
from sqlalchemy import select

from service.ledger.database.states import (
    BatchStatus,
    DatasetStatus,
    RequestStatus,
    RunStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    Dataset,
    Model,
    Record,
    TrainingRun,
    Version,
)
from service.ledger.destruction import withdrawals
from service.ledger.registry import datasets
from service.ledger.training import runs
from tests.workers import place
from tests.workers.place import Place
from tests.workers.withdrawing import (
    begin,
    go_on,
    receipts,
    until_waiting,
    withdraw_dataset,
    withdraw_model,
)
from workers.fault_points import InjectedFault
from workers.jobs import erase, ingest, purge, train
from workers.runtime import Runtime


@pytest.mark.parametrize("point", ["batch.computing", "batch.computed"])
def test_batch_of_a_withdrawn_model_leaves_nothing_behind(town: Place, point: str) -> None:
    request = town.ask(*town.training_rows()[:3])
    town.arm(point, "wait")
    thread = begin(town.work)
    until_waiting(town, point)
    withdraw_model(town, purge="now")
    go_on(town, point, thread)
    assert [one.status for one in town.batches()] == [BatchStatus.FAILED]
    assert [one.status for one in town.versions()] == [VersionStatus.WITHDRAWN]
    assert town.request(request).status == RequestStatus.COMPLETED  # by the same worker, at once
    assert not town.array().rows[town.training_rows()[:3]].any()
    purge.run_due(town.runtime)
    assert [one.status for one in town.versions()] == [VersionStatus.PURGED]


def test_withdrawn_live_version_hands_its_batch_over_to_its_successor(town: Place) -> None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(session, model, seed=2, actor="key:k", now=town.runtime.now())
    train.run_due(town.runtime)
    assert town.live().number == 2
    request = town.ask(*town.training_rows()[:3])
    town.arm("batch.computed", "wait")
    thread = begin(town.work)
    until_waiting(town, "batch.computed")
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        first, second = session.scalars(select(Version).order_by(Version.number))
        withdrawals.withdraw_version(
            session, model, second, successor=first, actor="key:k", now=town.runtime.now()
        )
    go_on(town, "batch.computed", thread)
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    live = town.live()
    assert (live.number, live.anchor_id) == (3, 1)
    assert [one.status for one in town.batches()] == [BatchStatus.FAILED, BatchStatus.COMPLETED]


def test_training_of_a_withdrawn_model_is_dropped(town: Place) -> None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(session, model, seed=2, actor="key:k", now=town.runtime.now())
    town.arm("train.computed", "wait")
    thread = begin(lambda: train.run_due(town.runtime))
    until_waiting(town, "train.computed")
    withdraw_model(town)
    go_on(town, "train.computed", thread)
    with town.runtime.session() as session:
        run = session.scalars(select(TrainingRun).order_by(TrainingRun.id.desc())).first()
    assert run is not None
    assert (run.status, run.error) == (RunStatus.FAILED, "the model was withdrawn")
    assert len(town.versions()) == 1


@pytest.mark.parametrize("point", ["erase.destroyed", "erase.blanked"])
def test_removal_of_a_dataset_that_is_interrupted_is_finished(town: Place, point: str) -> None:
    request = town.ask(*town.training_rows()[:3])
    withdraw_dataset(town)
    town.arm(point, "fault")
    with pytest.raises(InjectedFault):
        erase.run_due(town.runtime)
    assert receipts(town, "dataset:purged") == []
    erase.run_due(town.second())
    assert len(receipts(town, "dataset:purged")) == 1
    assert town.request(request).status == RequestStatus.COMPLETED


def test_purge_of_a_withdrawn_model_that_is_interrupted_is_finished(town: Place) -> None:
    withdraw_model(town, purge="now")
    town.arm("purge.destroyed", "fault")
    with pytest.raises(InjectedFault):
        purge.run_due(town.runtime)
    assert receipts(town, "version:purged") == []
    assert purge.run_due(town.second())
    assert len(receipts(town, "version:purged")) == 1
    assert len(receipts(town, "model:purged")) == 1
    assert not purge.run_due(town.runtime)


@pytest.mark.parametrize("stored", [False, True])
def test_ingest_of_a_withdrawn_dataset_is_stopped_and_overwritten(
    town: Place, stored: bool
) -> None:
    with town.runtime.session() as session:
        source = session.scalars(select(Dataset)).one().source
        datasets.create(session, "again", source=source, actor="key:k", now=town.runtime.now())
    before = set((town.settings.store / "arrays").iterdir())
    if stored:
        town.arm("ingest.stored", "wait")
        thread = begin(lambda: ingest.run_due(town.runtime))
        until_waiting(town, "ingest.stored")
        withdraw_dataset(town, "again")
        go_on(town, "ingest.stored", thread)
    else:
        ingest_and_withdraw_while_reading(town, town.runtime)
    assert set((town.settings.store / "arrays").iterdir()) == before
    erase.run_due(town.runtime)
    with town.runtime.session() as session:
        data = datasets.get(session, "again")
        assert data.status == DatasetStatus.PURGED
        assert session.scalars(select(Record.row).where(Record.dataset_id == data.id)).all() == []
    assert receipts(town, "dataset:purged")[0]["destroyed"] == []


def ingest_and_withdraw_while_reading(town: Place, runtime: Runtime) -> None:
    with runtime.session() as session:
        made = datasets.get(session, "again")
    with runtime.lease(ingest.lease_key(made.id)) as held:
        assert held is not None
        ingest.ingest(
            runtime,
            made.id,
            runtime.settings.sources / made.source["path"],
            held=held,
            progress=lambda _done, _all: withdraw_dataset(town, "again"),
        )


KILLED = """
from service.settings import Settings
from workers.jobs import erase, purge
from workers.runtime import Runtime

runtime = Runtime.make(Settings(_env_file=None, **%r))
erase.run_due(runtime)
purge.run_due(runtime)
"""


@pytest.mark.parametrize("point", ["erase.destroyed", "erase.blanked", "purge.destroyed"])
def test_worker_that_is_killed_while_it_destroys_is_replaced(
    town: Place, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = town.ask(*town.training_rows()[:3])
    withdraw_dataset(town)
    town.arm(point, "kill")
    program = KILLED % {**place.SETTINGS, "state_dir": town.settings.state_dir}
    program = program.replace("PosixPath", "__import__('pathlib').Path")
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signals.SIGKILL
    # Its lease runs out.
    monkeypatch.setenv("UNLEARN_FAULT_CLOCK_SECONDS", str(10 * town.settings.lease_seconds))
    erase.run_due(town.runtime)
    purge.run_due(town.runtime)
    assert town.request(request).status == RequestStatus.COMPLETED
    for action in ("dataset:purged", "version:purged", "model:purged"):
        assert len(receipts(town, action)) == 1
    assert list((town.settings.store / "arrays").iterdir()) == []
    assert not any((town.settings.store / "checkpoints").iterdir())
