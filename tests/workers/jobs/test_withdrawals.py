"""Withdrawals with real workers: what computes is stopped, what is stored is destroyed."""

from __future__ import annotations

import signal as signals
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from typer.testing import CliRunner, Result

from models_store import errors, open_store
from service import audit_file
from service.ledger.audit import canonical, chain, signing
from service.ledger.audit.signing import Signer
from service.ledger.database.states import (
    BatchStatus,
    DatasetStatus,
    ErasureStatus,
    RequestStatus,
    RunStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    AuditEvent,
    Dataset,
    Erasure,
    Model,
    Record,
    TrainingRun,
    Version,
)
from service.ledger.destruction import withdrawals
from service.ledger.registry import datasets
from service.ledger.reports import report
from service.ledger.requests import intake
from service.ledger.selection.matching import Ask
from service.ledger.training import runs
from tests.workers import place
from tests.workers.place import Place
from workers.cli import app
from workers.fault_points import InjectedFault
from workers.jobs import erase, ingest, pipeline, purge, train
from workers.runtime import Runtime


def withdraw_model(town: Place, **options: object) -> None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        withdrawals.withdraw_model(
            session,
            model,
            actor="key:k",
            now=town.runtime.now(),
            **options,  # type: ignore[arg-type]
        )


def withdraw_version(town: Place, number: int) -> None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        version = session.scalars(select(Version).filter_by(number=number)).one()
        withdrawals.withdraw_version(
            session, model, version, purge="now", actor="key:k", now=town.runtime.now()
        )


def withdraw_dataset(town: Place, name: str = "digits") -> None:
    with town.runtime.session() as session:
        withdrawals.withdraw_dataset(
            session,
            datasets.get(session, name),
            models="withdraw",
            purge="now",
            actor="key:k",
            now=town.runtime.now(),
        )


def receipts(town: Place, action: str) -> list[dict]:
    """Receipts of the chain, each with a signature that holds."""
    with town.runtime.session() as session:
        assert chain.verify(session).sound
        lines = session.scalars(select(AuditEvent).filter_by(action=action))
        found = [line.data["receipt"] for line in lines]
    keys = signing.read_keys(signing.public_keys(town.settings))
    for receipt in found:
        assert audit_file.verify_bytes(canonical.encode(receipt), keys=keys).ok
    return found


def keep_trying(town: Place) -> None:
    """Attempts after attempts, without their pauses, until nothing is due."""
    while pipeline.run_due(town.runtime):
        with town.runtime.session() as session:
            for share in session.scalars(select(Erasure)):
                share.not_before = None


def begin(work: object) -> threading.Thread:
    thread = threading.Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    return thread


def until_waiting(town: Place, point: str) -> None:
    while town.armed(point):
        threading.Event().wait(0.01)


def go_on(town: Place, point: str, thread: threading.Thread) -> None:
    (town.faults / f"{point}.go").write_text("")
    thread.join()


def ask_for_class(town: Place, label: int) -> str:
    with town.runtime.session() as session:
        receipt = intake.record(
            session,
            Ask(dataset="digits", kind="class", label=label),
            principal="key_test",
            digester=town.runtime.digester,
            now=town.runtime.now(),
        )
    return str(receipt.answer["id"])


def test_request_for_all_training_rows_completes_with_the_withdrawal_that_it_names(
    town: Place,
) -> None:
    town.change_policy(max_records=100_000)
    request = town.ask(*town.training_rows())
    town.work()
    stuck = town.request(request)
    assert stuck.status == RequestStatus.NEEDS_REVIEW
    assert stuck.status_reason is not None
    assert "POST /v1/models/m:withdraw" in stuck.status_reason
    assert f"POST /v1/deletion-requests/{request}:retry" in stuck.status_reason
    held = town.live()

    withdraw_model(town)
    assert town.share(request).status == ErasureStatus.COMPLETED
    rows = town.array().rows
    erase.run_due(town.runtime)
    assert town.request(request).status == RequestStatus.COMPLETED
    assert not np.asarray(rows)[town.training_rows()].any()
    purge.run_due(town.runtime)
    assert not open_store(town.settings.store).blobs.exists("checkpoints", held.digest)
    assert {one.status for one in town.versions()} == {VersionStatus.PURGED}
    [receipt] = receipts(town, "version:purged")
    assert {"kind": "checkpoints", "digest": held.digest} in receipt["destroyed"]
    [of_model] = receipts(town, "model:purged")
    assert [one["digest"] for one in of_model["versions"]] == [held.digest]


def test_request_for_the_last_class_completes_when_the_model_is_withdrawn(town: Place) -> None:
    labels = np.asarray(town.array().labels)
    town.change_policy(max_records=100_000)
    request = town.ask(*[row for row in town.training_rows() if labels[row] != 3])
    keep_trying(town)
    assert town.request(request).status == RequestStatus.COMPLETED
    last = ask_for_class(town, 3)
    before = len(town.batches())
    town.work()
    assert town.request(last).status == RequestStatus.NEEDS_REVIEW
    [batch] = town.batches()[before:]
    assert "no row is retained" in batch.error
    withdraw_model(town)
    erase.run_due(town.runtime)
    assert town.request(last).status == RequestStatus.COMPLETED


def test_requests_after_which_no_row_is_left_are_neither_tried_again_nor_taken_apart(
    town: Place,
) -> None:
    town.change_policy(max_records=100_000)
    rows = town.training_rows()
    asked = [town.ask(*rows[:300]), town.ask(*rows[300:])]
    town.work()
    [batch] = town.batches()
    assert (batch.status, batch.attempts) == (BatchStatus.FAILED, 1)
    assert batch.error is not None
    assert "no row is retained" in batch.error
    for one in map(town.request, asked):
        assert one.status == RequestStatus.NEEDS_REVIEW
        assert "POST /v1/models/m:withdraw" in (one.status_reason or "")
    assert town.live().number == 1
    withdraw_model(town)
    erase.run_due(town.runtime)
    assert {town.request(one).status for one in asked} == {RequestStatus.COMPLETED}


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


def test_version_that_was_withdrawn_is_purged_at_once_when_asked(town: Place) -> None:
    anchor = town.live()
    withdraw_version(town, 1)
    assert purge.run_due(town.runtime)
    assert not open_store(town.settings.store).blobs.exists("checkpoints", anchor.digest)
    assert town.model().production_id is None
    assert town.model().purged_at is None  # the model itself goes on
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(session, model, seed=3, actor="key:k", now=town.runtime.now())
    train.run_due(town.runtime)
    assert town.live().number == 2


def raw_files(town: Place) -> list[Path]:
    return [
        file
        for file in (town.settings.store / "arrays").rglob("*.npy")
        if file.name in ("rows.npy", "labels.npy", "digests.npy")
    ]


def test_withdrawn_dataset_is_overwritten_and_leaves_a_receipt_and_no_name(town: Place) -> None:
    request = town.ask(*town.training_rows()[:3])
    key = town.array().key
    opened = [file.open("rb") for file in raw_files(town)]
    assert len(opened) == 3
    withdraw_dataset(town)
    assert erase.run_due(town.runtime)
    for stream in opened:
        with stream:
            assert not any(stream.read())
    assert not (town.settings.store / "arrays" / key).exists()
    assert list((town.settings.store / "arrays").iterdir()) == []
    assert town.request(request).status == RequestStatus.COMPLETED
    with town.runtime.session() as session:
        data = datasets.get(session, "digits")
        ids = session.scalars(select(Record.record_id)).all()
    assert (data.status, data.array_key) == (DatasetStatus.PURGED, None)
    assert not [one for one in ids if "digit" in one]
    [receipt] = receipts(town, "dataset:purged")
    assert receipt["destroyed"] == [{"kind": "arrays", "digest": key}]
    assert receipt["rows"] == len(ids)
    assert not erase.run_due(town.runtime)
    assert purge.run_due(town.runtime)
    assert receipts(town, "model:purged") != []
    purge.sweep(town.runtime)


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


def told(town: Place, number: int) -> dict:
    with town.runtime.session() as session:
        version = session.scalars(select(Version).filter_by(number=number)).one()
        return report.report(
            session,
            version,
            digester=town.runtime.digester,
            signer=Signer.from_settings(town.settings),
            now=town.runtime.now(),
        )


def test_reports_of_withdrawn_and_purged_versions_stay_sound(town: Place) -> None:
    town.ask(*town.training_rows()[:3])
    town.work()
    keys = signing.read_keys(signing.public_keys(town.settings))

    def check(status: str) -> None:
        for number in (1, 2):
            made = told(town, number)
            assert made["status"] == status
            findings = audit_file.verify_bytes(canonical.encode(made), keys=keys)
            assert findings.ok, findings.lines()
            lines = [x for x in made["chain"]["lines"] if x["action"] != "version:withdrawn"]
            assert len(lines) < len(made["chain"]["lines"])
            cut = {**made, "chain": {**made["chain"], "lines": lines}}
            signed = Signer.from_settings(town.settings).sign(cut)
            assert not audit_file.verify_bytes(canonical.encode(signed), keys=keys).ok

    withdraw_model(town, purge="now")
    check("withdrawn")
    assert {one["version"] for one in told(town, 2)["remaining"]} == {1, 2}
    while purge.run_due(town.runtime):
        pass
    check("purged")
    assert told(town, 2)["remaining"] == []
    withdraw_dataset(town)
    erase.run_due(town.runtime)
    check("purged")


def command(town: Place, *arguments: str, answer: str = "") -> Result:
    environment = {"UNLEARN_STATE_DIR": str(town.settings.state_dir)}
    return CliRunner().invoke(app, list(arguments), env=environment, input=answer)


def test_commands_withdraw_what_the_operator_confirms(town: Place) -> None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(session, model, seed=2, actor="key:k", now=town.runtime.now())
    train.run_due(town.runtime)
    refused = command(town, "versions", "withdraw", "m", "2", answer="n\n")
    assert refused.exit_code == 1
    assert town.live().number == 2
    done = command(town, "versions", "withdraw", "m", "2", "--promote", "1", answer="y\n")
    assert done.exit_code == 0, done.output
    assert town.live().number == 1
    in_use = command(town, "datasets", "delete", "digits", "--yes")
    assert in_use.exit_code == 1
    assert "--with-models" in in_use.output
    assert command(town, "models", "withdraw", "m", "--purge-now", "--yes").exit_code == 0
    purge.run_due(town.runtime)
    assert {one.status for one in town.versions()} == {VersionStatus.PURGED}
    gone = command(town, "datasets", "delete", "digits", "--with-models", "--yes")
    assert gone.exit_code == 0, gone.output
    erase.run_due(town.runtime)
    assert len(receipts(town, "dataset:purged")) == 1
    unknown = command(town, "models", "withdraw", "nobody", "--yes")
    assert (unknown.exit_code, "no model of this name" in unknown.output) == (1, True)


def test_array_of_a_withdrawn_dataset_is_not_there_to_be_read(town: Place) -> None:
    key = town.array().key
    withdraw_dataset(town)
    erase.run_due(town.runtime)
    with pytest.raises(errors.NotStored):
        open_store(town.settings.store).rows.open(key)


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
