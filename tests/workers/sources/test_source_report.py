"""What is told of how a source was read: over HTTP and on the command line."""

from __future__ import annotations

import csv
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from models_store import open_store
from service.errors import NotFound
from service.ledger.database import db
from service.ledger.database.tables import AuditEvent, DatasetInspection, Record
from service.ledger.registry import datasets
from service.ledger.registry import inspections as ledger_inspections
from tests.factories import NOW
from tests.service.api import callers
from workers import cli, readers
from workers.jobs import ingest, inspections
from workers.runtime import Runtime
from workers.sources import reading


def _visits(path: Path, n: int = 40) -> Path:
    """A table of ``n`` visits; two ids have white space, a note is to be left out."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["Id", "PatientID", "note", "age", "weight", "label"])
        for i in range(n):
            patient = f"p{i // 4} " if i < 2 else f"p{i // 4}"
            table.writerow([f"v{i}", patient, "so,\nso", i % 7, 50.5 + i, i % 2])
    return path


def _type(database: Engine, tmp_path: Path, *words: str) -> Any:
    env = {
        "UNLEARN_DATABASE_URL": database.url.render_as_string(hide_password=False),
        "UNLEARN_STATE_DIR": str(tmp_path / "state"),
        "COLUMNS": "120",
    }
    return CliRunner().invoke(cli.app, ["datasets", *words], env=env)


COLUMNS = [
    ("Id", "record_id", "text", "by name"),
    ("PatientID", "subject_id", "keyed digest", "by name"),
    ("note", "ignored", None, "declared"),
    ("age", "feature", "float32", "remaining column"),
    ("weight", "feature", "float32", "remaining column"),
    ("label", "label", "int64", "by name"),
]


def test_every_column_and_what_reading_changed_is_shown(database: Engine, tmp_path: Path) -> None:
    source = str(_visits(tmp_path / "visits.csv"))
    added = _type(database, tmp_path, "add", "visits", source, "--ignore", "note")
    assert added.exit_code == 0, added.output
    told = _type(database, tmp_path, "show", "visits", "--json")
    assert told.exit_code == 0, told.output
    by_command = json.loads(told.stdout)
    with callers.application(callers.settings_on(database, tmp_path)) as running:
        by_http = callers.client(running, "models:read").get("/v1/datasets/visits").json()
    for shown in (by_command, by_http):
        assert [tuple(column.values()) for column in shown["columns"]] == COLUMNS
        assert shown["ids"] == {"record_id": "source", "subject_id": "source", "case": None}
        assert shown["notes"]["subject_ids_normalised"] == 2
        assert shown["notes"]["record_ids_normalised"] == 0
        assert shown["notes"]["splits"] == "drawn"
        assert shown["notes"]["suppressed"] == 0
        assert shown["scale"] == 1.0
        assert shown["class_names"] is None
    for output in (added.output, _type(database, tmp_path, "show", "visits").output):
        for words in ("record ids: from the source", "2 subject ids were normalised", "PatientID"):
            assert words in output


def test_generated_and_absent_ids_are_shown_as_such(
    sqlite_database: Engine, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 2, 2), np.uint8), y=np.array([0, 1, 0, 1]), z=[1])
    added = _type(sqlite_database, tmp_path, "add", "x", str(tmp_path / "x.npz"))
    assert added.exit_code == 0, added.output
    with db.session_factory(sqlite_database)() as session:
        shown = datasets.describe(session, datasets.get(session, "x"))
    assert shown["ids"] == {"record_id": "generated", "subject_id": "absent", "case": None}
    assert shown["scale"] == 1 / 255
    assert [tuple(column.values()) for column in shown["columns"]] == [
        ("x", "feature", "uint8", "by name"),
        ("y", "label", "int64", "by name"),
        ("z", "ignored", None, "remaining column"),
    ]


def test_a_dry_run_of_the_command_shows_the_same_and_keeps_nothing(
    sqlite_database: Engine, tmp_path: Path
) -> None:
    source = str(_visits(tmp_path / "visits.csv"))
    asked = ("add", "visits", source, "--ignore", "note")
    tried = _type(sqlite_database, tmp_path, *asked, "--dry-run")
    assert tried.exit_code == 0, tried.output
    assert not list((tmp_path / "state").rglob("*.npy"))
    refused = _type(sqlite_database, tmp_path, "add", "visits", source, "--dry-run")
    assert refused.exit_code == 1
    assert "columns.ignored" in refused.output
    with db.session_factory(sqlite_database)() as session:
        assert datasets.find(session, "visits") is None
    added = _type(sqlite_database, tmp_path, *asked)
    assert added.stdout == tried.stdout


def test_a_dry_run_over_http_shows_the_same_and_keeps_nothing(
    database: Engine, tmp_path: Path
) -> None:
    settings = callers.settings_on(database, tmp_path)
    settings.sources.mkdir(parents=True)
    _visits(settings.sources / "visits.csv")
    body: dict[str, Any] = {"name": "visits", "source": {"path": "visits.csv"}}
    body["columns"] = {"ignored": ["note"]}
    runtime = Runtime.make(settings, engine=database)
    with callers.application(settings) as running:
        client = callers.client(running, "models:write", "models:read")
        asked = client.post("/v1/datasets", json={**body, "dry_run": True})
        assert asked.status_code == 202
        refused = client.post(
            "/v1/datasets", json={**body, "columns": {"record_id": "nobody"}, "dry_run": True}
        )
        before = client.get(asked.headers["Location"]).json()
        assert (before["status"], before["found"]) == ("waiting", None)
        assert inspections.run_due(runtime)
        assert not inspections.run_due(runtime)
        tried = client.get(asked.headers["Location"]).json()
        assert (tried["status"], tried["error"]) == ("done", None)
        told = client.get(refused.headers["Location"]).json()
        assert (told["status"], told["found"]) == ("refused", None)
        assert "'nobody'" in told["error"]
        assert client.get("/v1/datasets").json()["items"] == []
        assert open_store(settings.store).rows.keys() == []
        with running.state.sessions() as session:
            assert session.scalars(select(Record)).all() == []
            lines = session.scalars(select(AuditEvent.subject)).all()
            assert [line for line in lines if line.startswith("dataset")] == []
        client.post("/v1/datasets", json=body)
        assert ingest.run_due(runtime)
        ready = client.get("/v1/datasets/visits").json()
        assert ready["status"] == "ready"
        assert {key: ready[key] for key in tried["found"]} == tried["found"]


def test_an_inspection_is_kept_for_an_hour(session: Session) -> None:
    source = {"path": "x.csv"}
    made = ledger_inspections.create(session, source=source, now=NOW)
    later = NOW + timedelta(minutes=59)
    assert ledger_inspections.get(session, made.id, now=later) is made
    made_id, late = made.id, NOW + timedelta(minutes=61)
    with pytest.raises(NotFound, match="more than an hour ago"):
        ledger_inspections.get(session, made_id, now=late)
    other = ledger_inspections.create(session, source=source, now=late)
    session.expire_all()
    assert session.scalars(select(DatasetInspection.id)).all() == [other.id]


def test_a_dataset_that_is_not_there_is_named(sqlite_database: Engine, tmp_path: Path) -> None:
    told = _type(sqlite_database, tmp_path, "show", "nobody")
    assert told.exit_code == 1
    assert "no dataset of this name" in told.output


def test_rows_that_are_left_out_are_not_stored_and_counted(tmp_path: Path) -> None:
    path = _visits(tmp_path / "visits.csv")
    found = reading.read_into_store(
        path,
        rows=open_store(tmp_path / "store").rows,
        name="visits",
        columns=readers.Columns(ignored=["note"]),
        leave_out=lambda chunk, _: np.array([one == "p3" for one in chunk.subject_ids or []]),
    )
    assert found.rows == 36
    assert found.subject_ids is not None
    assert "p3" not in found.subject_ids
    assert found.record_ids == [f"v{i}" for i in range(40) if i // 4 != 3]
    assert found.report.notes["suppressed"] == 4


def test_generated_ids_number_the_rows_of_the_source(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 2)), y=np.array([0, 1, 2, 0]))
    found = reading.read_into_store(
        tmp_path / "x.npz",
        rows=open_store(tmp_path / "store").rows,
        name="x",
        leave_out=lambda chunk, _: chunk.labels == 1,
    )
    assert found.record_ids == ["row-000000", "row-000002", "row-000003"]


def test_a_source_of_which_nothing_may_stay_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 2)), y=np.array([0, 1, 2, 0]))
    with pytest.raises(readers.ReadError, match="forgotten"):
        reading.read_into_store(
            tmp_path / "x.npz",
            rows=open_store(tmp_path / "store").rows,
            name="x",
            leave_out=lambda chunk, _: np.ones(len(chunk), bool),
        )
