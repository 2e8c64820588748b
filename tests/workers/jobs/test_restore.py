"""A backup that is older than a deletion is restored, and forgets again."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner, Result

from models_store import open_store
from service.ledger.audit import canonical, chain
from service.ledger.audit.signing import Signer
from service.ledger.database.states import RequestStatus, VersionStatus
from service.ledger.database.tables import ApiKey, AuditEvent, Dataset, Model, Record, Version
from service.ledger.destruction import withdrawals
from service.ledger.registry import forgotten, keys
from service.ledger.requests import lifecycle
from tests.workers.place import Place
from workers.cli import app
from workers.jobs import erase, purge, restore


class Backups:
    """What an operator keeps elsewhere: database and store as they were, and the newest list."""

    def __init__(self, town: Place, home: Path) -> None:
        self.town, self.home = town, home
        self.list = home / "tombstones.json"

    def take(self) -> None:
        self.home.mkdir(exist_ok=True)
        shutil.copytree(self.town.settings.store, self.home / "store")
        with (
            closing(sqlite3.connect(self.town.settings.state_dir / "ledger.db")) as source,
            closing(sqlite3.connect(self.home / "ledger.db")) as copy,
        ):
            source.backup(copy)

    def restore(self, *, database: bool = True, store: bool = True) -> None:
        self.town.runtime.engine.dispose()
        state = self.town.settings.state_dir
        if database:
            for file in state.glob("ledger.db*"):
                file.unlink()
            shutil.copyfile(self.home / "ledger.db", state / "ledger.db")
        if store:
            shutil.rmtree(self.town.settings.store)
            shutil.copytree(self.home / "store", self.town.settings.store)

    def command(self, *arguments: str) -> Result:
        """The command ``unlearn restore`` on the town's state."""
        environment = {"UNLEARN_STATE_DIR": str(self.town.settings.state_dir)}
        return CliRunner().invoke(app, ["restore", *arguments], env=environment)

    def found(self) -> restore.Found:
        town = self.town
        return restore.check(town.settings, town.runtime.engine, self.list)


@pytest.fixture
def backups(town: Place, tmp_path: Path) -> Backups:
    made = Backups(town, tmp_path / "backup")
    made.take()
    return made


def forget(town: Place, rows: list[int]) -> str:
    request = town.ask(*rows)
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    return request


def assert_gone(town: Place, rows: list[int]) -> None:
    live = town.live()
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        assert forgotten.requests_in(session, model, live) == []
        records = session.scalars(select(Record).where(Record.row.in_(rows))).all()
        assert all(one.erased_at and one.excluded_revision for one in records)
        assert chain.verify(session).sound
    assert not town.array().rows[rows].any()


def test_restored_backup_forgets_again_under_the_same_request(
    town: Place, backups: Backups
) -> None:
    rows = town.training_rows()[:30]
    request = forget(town, rows)
    due = town.request(request).due_at
    assert backups.command("export", str(backups.list)).exit_code == 0
    assert backups.command("check", str(backups.list)).exit_code == 0

    backups.restore()
    assert town.array().rows[rows].any(axis=(1, 2, 3)).all()
    assert town.live().number == 1
    found = backups.found()
    assert [one.id for one in found.lost] == [request]
    assert (found.in_training, found.raw) == ({"digits": rows}, {"digits": rows})
    assert found.live == (("m", 1, 30),)
    assert found.chain == "shorter"
    told = backups.command("check", str(backups.list))
    assert told.exit_code == 1
    assert "version 1 of m is live and contains 30 forgotten records" in told.output
    with town.runtime.session() as session:  # looking changes nothing
        assert (
            session.scalars(select(Record).where(Record.excluded_revision.is_not(None))).all() == []
        )

    assert backups.command("check", str(backups.list), "--apply").exit_code == 0
    again = town.request(request)
    assert (again.status, again.due_at, again.matched) == (RequestStatus.PROCESSING, due, 30)
    with town.runtime.session() as session:  # before any worker can start a training
        out = session.scalars(select(Record.row).where(Record.excluded_revision.is_not(None)))
        assert sorted(out) == rows
    assert backups.command("check", str(backups.list)).exit_code == 1  # until workers have run
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert (town.live().number, town.live().origin) == (2, "unlearned")
    assert_gone(town, rows)
    assert backups.command("check", str(backups.list)).exit_code == 0
    assert town.versions()[0].status == VersionStatus.RETIRED
    with town.runtime.session() as session:
        line = session.scalars(
            select(AuditEvent).filter_by(action=chain.Action.RESTORE_REPLAYED)
        ).one()
        assert (line.actor, line.data["requests"], line.data["records"]) == ("cli", 1, 30)


def test_replay_may_be_repeated(town: Place, backups: Backups) -> None:
    rows = town.training_rows()[:10]
    request = forget(town, rows)
    backups.command("export", str(backups.list))
    backups.restore()
    for _ in range(2):
        backups.command("check", str(backups.list), "--apply")
    town.work()
    backups.command("check", str(backups.list), "--apply")
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.forgotten() == rows
    assert_gone(town, rows)


def test_database_older_than_the_files_is_retrained_because_rows_are_gone(
    town: Place, backups: Backups
) -> None:
    rows = town.training_rows()[:30]
    forget(town, rows)
    backups.command("export", str(backups.list))
    backups.restore(store=False)
    assert not town.array().rows[rows].any()
    assert backups.found().erased_in_file == {"digits": rows}
    applied = backups.command("check", str(backups.list), "--apply")
    assert "Model m will be retrained" in applied.output
    town.work()
    live = town.live()
    assert (live.origin, live.method, live.anchor_id) == ("retrained", "retrain", live.id)
    assert_gone(town, rows)
    assert backups.found().clean


def test_rows_that_only_the_files_know_to_be_gone_are_forgotten_too(
    town: Place, backups: Backups
) -> None:
    rows = town.training_rows()[:20]
    backups.command("export", str(backups.list))
    forget(town, rows)  # after the list was made
    backups.restore(store=False)
    assert backups.command("check", str(backups.list), "--apply").exit_code == 0
    town.work()
    assert town.live().origin == "retrained"
    assert_gone(town, rows)
    assert backups.found().clean


def test_files_older_than_the_database_are_overwritten_at_once(
    town: Place, backups: Backups
) -> None:
    rows = town.training_rows()[:30]
    forget(town, rows)
    backups.command("export", str(backups.list))
    live = town.live()
    kept = town.settings.store / "checkpoints" / live.digest
    shutil.copytree(kept, backups.home / "store" / "checkpoints" / live.digest)
    backups.restore(database=False)
    assert town.array().rows[rows].any()
    assert backups.found().raw_again == {"digits": rows}
    assert backups.command("check", str(backups.list), "--apply").exit_code == 0
    assert not town.array().rows[rows].any()
    assert backups.found().clean
    assert town.live().id == live.id


def test_request_that_no_worker_had_begun_is_not_lost(town: Place, backups: Backups) -> None:
    rows = town.training_rows()[:5]
    request = town.ask(*rows)
    backups.command("export", str(backups.list))
    backups.restore()
    backups.command("check", str(backups.list), "--apply")
    assert town.request(request).status == RequestStatus.ACCEPTED
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert_gone(town, rows)


def test_request_from_before_the_backup_cannot_be_cancelled_any_more(
    town: Place, tmp_path: Path
) -> None:
    rows = town.training_rows()[:5]
    request = town.ask(*rows)
    backups = Backups(town, tmp_path / "backup")
    backups.take()
    town.work()
    backups.command("export", str(backups.list))
    backups.restore()
    assert [one.id for one in backups.found().behind] == [request]
    backups.command("check", str(backups.list), "--apply")
    assert town.request(request).status == RequestStatus.PROCESSING
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert_gone(town, rows)


def test_cancelled_request_and_revoked_key_stay_so(town: Place, tmp_path: Path) -> None:
    row = town.training_rows()[0]
    request = town.ask(row)
    with town.runtime.session() as session:
        key, _ = keys.create(
            session, "lost", scopes=["admin"], expires_at=None, actor="cli", now=town.runtime.now()
        )
    backups = Backups(town, tmp_path / "backup")
    backups.take()
    with town.runtime.session() as session:
        lifecycle.cancel(session, request, actor="key:k")
        keys.revoke(session, key.id, actor="cli")
    backups.command("export", str(backups.list))
    backups.restore()
    assert backups.found().keys == (key.id,)
    assert backups.command("check", str(backups.list), "--apply").exit_code == 0
    town.work()
    assert town.request(request).status == RequestStatus.CANCELLED
    assert town.array().rows[row].any()
    with town.runtime.session() as session:
        assert session.get_one(ApiKey, key.id).revoked_at is not None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace('"completed"', '"cancelled"'), "changed"),
        (lambda text: "{}", "no tombstone list"),
        (lambda text: text[:-1], "Expecting"),
    ],
)
def test_changed_list_is_refused(town: Place, backups: Backups, change, why: str) -> None:
    forget(town, town.training_rows()[:3])
    backups.command("export", str(backups.list))
    backups.list.write_text(change(backups.list.read_text()))
    told = backups.command("check", str(backups.list), "--apply")
    assert told.exit_code == 1
    assert why in " ".join(told.output.split())


def test_list_names_no_record(town: Place, backups: Backups) -> None:
    row = town.training_rows()[0]
    forget(town, [row])
    backups.command("export", str(backups.list))
    assert f"digit-{row:04d}" not in backups.list.read_text()


def purge_all(town: Place) -> None:
    erase.run_due(town.runtime)
    purge.run_due(town.runtime)


def withdraw(town: Place, what: str) -> None:
    options = {"purge": "now", "actor": "key:k", "now": town.runtime.now()}
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        if what == "version":
            version = session.scalars(select(Version)).one()
            withdrawals.withdraw_version(session, model, version, **options)
        elif what == "model":
            withdrawals.withdraw_model(session, model, **options)
        else:
            data = session.scalars(select(Dataset)).one()
            withdrawals.withdraw_dataset(session, data, models="withdraw", **options)
    purge_all(town)


@pytest.mark.parametrize("store", [True, False], ids=["files too", "files kept"])
@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("version", "version 1 of m was withdrawn and is back"),
        ("model", "model m was withdrawn and is back"),
        ("dataset", "dataset digits was withdrawn and is back"),
    ],
)
def test_restored_backup_withdraws_again(
    town: Place, backups: Backups, what: str, told: str, store: bool
) -> None:
    digest, key = town.live().digest, town.array().key
    request = town.ask(*town.training_rows()[:2])
    withdraw(town, what)
    assert town.request(request).status == RequestStatus.COMPLETED
    assert backups.command("export", str(backups.list)).exit_code == 0
    backups.restore(store=store)
    checked = backups.command("check", str(backups.list))
    assert checked.exit_code == 1
    assert told in checked.output
    assert backups.command("check", str(backups.list), "--apply").exit_code == 0
    for _ in range(2):  # the request is known again, then its rows are overwritten
        purge_all(town)
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.model().production_id is None
    assert {one.status for one in town.versions()} == {VersionStatus.PURGED}
    assert not open_store(town.settings.store).blobs.exists("checkpoints", digest)
    assert open_store(town.settings.store).rows.exists(key) == (what != "dataset")
    after = backups.command("check", str(backups.list))
    assert told not in after.output


def test_list_from_before_there_were_withdrawals_is_still_read(
    town: Place, backups: Backups
) -> None:
    restore.export(town.settings, town.runtime.engine, backups.list)
    document = canonical.decode(backups.list.read_bytes())
    assert document["withdrawn"] == {"datasets": [], "models": [], "versions": []}
    del document["withdrawn"]
    signed = Signer.from_settings(town.settings).sign(document)
    backups.list.write_bytes(canonical.encode(signed))
    assert backups.found().clean
