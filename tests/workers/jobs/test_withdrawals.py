"""Withdrawals with real workers: what computes is stopped, what is stored is destroyed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from typer.testing import CliRunner, Result

from models_store import errors, open_store
from service import audit_file
from service.ledger.audit import canonical, signing
from service.ledger.audit.signing import Signer
from service.ledger.database.states import (
    BatchStatus,
    DatasetStatus,
    ErasureStatus,
    RequestStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    Erasure,
    Model,
    Record,
    Version,
)
from service.ledger.registry import datasets
from service.ledger.reports import report
from service.ledger.training import runs
from tests.workers.place import Place
from tests.workers.withdrawing import (
    receipts,
    withdraw_dataset,
    withdraw_model,
    withdraw_version,
)
from workers.cli import app
from workers.jobs import erase, pipeline, purge, train


def keep_trying(town: Place) -> None:
    """Attempts after attempts, without their pauses, until nothing is due."""
    while pipeline.run_due(town.runtime):
        with town.runtime.session() as session:
            for share in session.scalars(select(Erasure)):
                share.not_before = None


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
    last = town.ask_for_class(3)
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
