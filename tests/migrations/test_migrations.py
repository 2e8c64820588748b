"""The migrations, on real databases of both kinds."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Engine, inspect, select, text

from service.ledger.audit import chain
from service.ledger.batches import execution
from service.ledger.database import db, schema, tables
from service.ledger.database.tables import Batch, Dataset
from service.ledger.registry import methods
from service.messages import sampling
from tests import factories
from unlearning import inputs


def test_models_equal_migrations(database: Engine) -> None:
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, db.Base.metadata) == []


def test_tables_made_from_the_models_have_the_triggers_and_keys_of_the_migrations(
    migrated_database: Engine,
) -> None:
    database = migrated_database
    migrated = _definitions(database)
    schema.downgrade(database, revision="base")
    db.Base.metadata.create_all(database)
    assert _definitions(database) == migrated
    assert len(migrated["triggers"]) >= 4


def test_downgrade_removes_everything_also_with_rows_and_upgrade_brings_it_back(
    migrated_database: Engine,
) -> None:
    database = migrated_database
    with db.session_factory(database)() as session:
        data = factories.dataset(session)
        owner = factories.model(session, data)
        anchor = factories.version(session, owner)
        factories.unlearned(session, owner, anchor, [factories.request(session, data)])
        chain.append(
            session,
            actor="system",
            action=chain.Action.MODEL_CREATED,
            subject="model:m",
            data={},
        )
        session.commit()
    schema.downgrade(database, revision="base")
    assert inspect(database).get_table_names() == ["alembic_version"]
    schema.upgrade(database)
    with db.session_factory(database)() as session:
        assert schema.is_current(session)
        factories.dataset(session)
        session.commit()


def test_datasets_of_before_learn_where_their_ids_come_from(bare_database: Engine) -> None:
    database = bare_database
    schema.upgrade(database, revision="0001")
    known = {
        "generated": ([str(row) for row in range(12)], None, {}),
        "declared": ([str(row) for row in range(12)], "s", {"columns": {"record_id": "number"}}),
        "named": ([f"r{row}" for row in range(12)], "s", {"columns": {"record_id": None}}),
        "shifted": ([str(row + 1) for row in range(12)], None, {}),
    }
    with database.begin() as connection:
        for number, (name, (ids, subject, source)) in enumerate(known.items(), start=1):
            connection.execute(
                text(
                    "INSERT INTO datasets"
                    " (id, name, status, source, revision, progress, created_at) VALUES"
                    " (:id, :name, 'ready', :source, 0, 1, '2026-01-01 00:00:00')"
                ),
                {"id": number, "name": name, "source": json.dumps(source)},
            )
            for row, record_id in enumerate(ids):
                connection.execute(
                    text(
                        "INSERT INTO records"
                        ' (dataset_id, "row", record_id, subject_digest, label, split)'
                        " VALUES (:dataset, :row, :record_id, :digest, 0, 0)"
                    ),
                    {"dataset": number, "row": row, "record_id": record_id, "digest": subject},
                )
    schema.upgrade(database)
    with db.session_factory(database)() as session:
        found = {
            row.name: (str(row.record_id_origin), str(row.subject_id_origin), row.id_case)
            for row in session.scalars(select(Dataset))
        }
        splits = [row.split_rows for row in session.scalars(select(Dataset))]
    assert splits == [{"train": 12, "validation": 0, "audit": 0}] * 4
    assert found == {
        "generated": ("generated", "absent", None),
        "declared": ("source", "source", None),
        "named": ("source", "source", None),
        "shifted": ("source", "absent", None),
    }
    schema.downgrade(database, revision="0001")
    assert "record_id_origin" not in {
        one["name"] for one in inspect(database).get_columns("datasets")
    }


def test_methods_of_before_learn_what_they_need(bare_database: Engine) -> None:
    """Until a worker of this release has announced itself, batches go by what is there."""
    schema.upgrade(bare_database, revision="0029")
    with bare_database.begin() as connection:
        for name in ("amnesiac", "iau", "retrain"):
            connection.execute(
                text(
                    "INSERT INTO capabilities (kind, name, summary, options_schema, details,"
                    " code_version, announced_at)"
                    " VALUES ('method', :name, 'M.', '{}', :details, '1', '2026-01-01 00:00:00')"
                ),
                {"name": name, "details": json.dumps({"forgets": ["class", "records"]})},
            )
    schema.upgrade(bare_database)
    with db.session_factory(bare_database)() as session:
        known = methods.announced(session)
    assert all(one.installed and "class" in one.forgets for one in known.values())
    needs = {name: dict(one.needs) for name, one in known.items()}
    assert needs == {
        "amnesiac": {"update_log": {"class", "records"}},
        "iau": {"anchor": {"records"}},
        "retrain": {},
    }


def test_datasets_of_before_learn_the_kind_of_their_rows(bare_database: Engine) -> None:
    schema.upgrade(bare_database, revision="0032")
    rows = {
        "pictures": ([3, 4, 5], "uint8"),
        "floats": ([1, 2, 2], "float32"),
        "flags": ([7], "uint8"),
    }
    with bare_database.begin() as connection:
        for number, (name, (shape, dtype)) in enumerate(rows.items(), start=1):
            connection.execute(
                text(
                    "INSERT INTO datasets (id, name, status, source, revision, progress,"
                    " created_at, shape, dtype) VALUES (:id, :name, 'ready', '{}', 0, 1,"
                    " '2026-01-01 00:00:00', :shape, :dtype)"
                ),
                {"id": number, "name": name, "shape": json.dumps(shape), "dtype": dtype},
            )
            connection.execute(
                text(
                    "INSERT INTO models (id, name, dataset_id, architecture, transform, recipe,"
                    " policy, created_at) VALUES (:id, :name, :id, '{}', '{}', '{}', '{}',"
                    " '2026-01-01 00:00:00')"
                ),
                {"id": number, "name": name},
            )
    schema.upgrade(bare_database)
    with db.session_factory(bare_database)() as session:
        found = {one.name: one.input for one in session.scalars(select(Dataset))}
        of_models = {one.name: one.input for one in session.scalars(select(tables.Model))}
    for name, (shape, dtype) in rows.items():
        kind = inputs.kind(inputs.of_rows(shape), {})
        # Whether options are learned is asked of newer datasets; no older one's were.
        assert {**found[name], "learned": False} == inputs.facts(kind, shape, dtype)
        assert of_models[name] == {"name": kind.name, "options": {}}


def test_versions_of_before_know_the_rows_that_their_datasets_had(
    migrated_database: Engine,
) -> None:
    with db.session_factory(migrated_database)() as session:
        data = factories.dataset(session, rows=9)
        made = factories.version(session, factories.model(session, data))
        shown = {"dataset_id": data.id, "name": "audit", "list_id": "", "revision": 3}
        session.add(tables.ShownSet(**shown, data_rows=9, below=sampling.PLACES))
        session.commit()
        version_id = made.id
    schema.downgrade(migrated_database, revision="0036")
    schema.upgrade(migrated_database)
    with db.session_factory(migrated_database)() as session:
        assert session.get_one(tables.Version, version_id).data_rows == 9
        assert [one.data_rows for one in session.scalars(select(tables.ShownSet))] == [9]
        data = session.scalars(select(Dataset)).one()
        data.appends = 1
        session.commit()
    with pytest.raises(RuntimeError, match="1 datasets have appended rows"):
        schema.downgrade(migrated_database, revision="0036")


def test_requests_over_every_dataset_come_and_go_with_their_migration(
    migrated_database: Engine,
) -> None:
    with db.session_factory(migrated_database)() as session:
        data = [factories.dataset(session) for _ in range(2)]
        for rows in ([1], []):
            asked = factories.request(session, data[1], rows=rows, dataset_id=None)
            if rows:
                session.add(
                    tables.RequestDataset(
                        request_id=asked.id,
                        dataset_id=data[1].id,
                        matched=len(rows),
                        already_forgotten=0,
                    )
                )
        expected = [data[1].id, data[0].id]
        session.commit()
    schema.downgrade(migrated_database, revision="0005")
    with migrated_database.connect() as connection:
        found = connection.execute(text("SELECT dataset_id FROM deletion_requests ORDER BY id"))
        assert [dataset_id for (dataset_id,) in found] == expected
        assert connection.execute(text("SELECT count(*) FROM request_records")).scalar() == 1
    schema.upgrade(migrated_database)
    with migrated_database.connect() as connection:
        found = connection.execute(text("SELECT count(*) FROM deletion_requests"))
        assert found.scalar() == len(expected)


def test_sqlite_checks_its_keys_again_after_a_migration(sqlite_database: Engine) -> None:
    schema.upgrade(sqlite_database)
    with sqlite_database.connect() as connection:  # the pool's only one
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_bare_database_is_not_current(bare_database: Engine) -> None:
    with db.session_factory(bare_database)() as session:
        assert not schema.is_current(session)


def test_a_database_of_a_newer_release_is_not_current(database: Engine) -> None:
    with db.session_factory(database)() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert not schema.is_current(session)


def test_upgrade_by_url_makes_the_directory(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/state/ledger.db"
    schema.upgrade(url)
    engine = db.engine(url)
    with db.session_factory(engine)() as session:
        assert schema.is_current(session)
    engine.dispose()


def test_the_command_line_migrates_the_database_of_the_settings(
    bare_database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bare_database.url.render_as_string(hide_password=False)
    monkeypatch.setenv("UNLEARN_DATABASE_URL", url)
    ini = Config(schema.MIGRATIONS.parent / "alembic.ini")
    command.upgrade(ini, "head")
    command.check(ini)
    with db.session_factory(bare_database)() as session:
        assert schema.is_current(session)
    with pytest.raises(CommandError, match="without --sql"):
        command.upgrade(ini, "head", sql=True)


def test_several_may_start_at_once(bare_database: Engine) -> None:
    url = bare_database.url.render_as_string(hide_password=False)
    fork = multiprocessing.get_context("fork")
    together = fork.Barrier(3)
    starts = [fork.Process(target=_upgrade, args=(url, together)) for _ in range(3)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert [start.exitcode for start in starts] == [0, 0, 0]
    with db.session_factory(bare_database)() as session:
        assert schema.is_current(session)
        assert session.scalar(text("SELECT count(*) FROM audit_head")) == 1


def _upgrade(url: str, together: Any) -> None:
    together.wait()
    schema.upgrade(url)


def _definitions(database: Engine) -> dict[str, Any]:
    """Triggers and foreign keys, which the comparison of models and tables leaves out."""
    query = (
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
        if database.dialect.name == "sqlite"
        else "SELECT t.tgname, pg_get_triggerdef(t.oid), p.prosrc FROM pg_trigger t"
        " JOIN pg_proc p ON p.oid = t.tgfoid WHERE NOT t.tgisinternal ORDER BY 1"
    )
    with database.connect() as connection:
        triggers = [
            tuple(" ".join(word.split()) for word in row)
            for row in connection.exec_driver_sql(query)
        ]
    look = inspect(database)
    keys = {
        table: sorted(key["name"] or "" for key in look.get_foreign_keys(table))
        for table in sorted(look.get_table_names())
        if table != "alembic_version"
    }
    return {"triggers": triggers, "keys": keys, "functions": _functions(database)}


def _functions(database: Engine) -> list[tuple[str, ...]]:
    """Functions of the schema itself, by name, on a database that has any."""
    if database.dialect.name == "sqlite":
        return []
    query = (
        "SELECT proname, prosrc FROM pg_proc"
        " WHERE pronamespace = current_schema()::regnamespace ORDER BY 1"
    )
    with database.connect() as connection:
        rows = connection.exec_driver_sql(query).all()
    return [tuple(" ".join(word.split()) for word in row) for row in rows]


def test_requests_that_share_a_list_have_one_each_in_the_schema_of_before(
    migrated_database: Engine,
) -> None:
    with db.session_factory(migrated_database).begin() as session:
        data = factories.dataset(session)
        first = factories.request(session, data, rows=[1, 2])
        second = factories.request(session, data, rows=[], listed_by=first.id)
        expected = {(one.id, row) for one in (first, second) for row in (1, 2)}
    schema.downgrade(migrated_database, revision="0021")
    with migrated_database.connect() as connection:
        found = connection.execute(text("SELECT request_id, row FROM request_records"))
        assert {(request_id, row) for request_id, row in found} == expected
    schema.upgrade(migrated_database)
    with migrated_database.connect() as connection:
        found = connection.execute(text("SELECT id, listed_by FROM deletion_requests"))
        assert all(request_id == listed_by for request_id, listed_by in found)


def test_records_that_were_excluded_before_are_listed_by_the_migration(
    bare_database: Engine,
) -> None:
    schema.upgrade(bare_database, revision="0033")
    values = "'r' || {row}, {row}, 0, 0"
    with bare_database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO datasets (id, name, status, source, revision, progress, created_at)"
                " VALUES (1, 'd', 'ready', '{}', 9, 1, '2026-01-01 00:00:00+00')"
            )
        )
        for row, revision, erased in (
            (0, "NULL", "NULL"),
            (1, "3", "'2026-01-02 00:00:00+00'"),
            (2, "9", "NULL"),
        ):
            connection.execute(
                text(
                    "INSERT INTO records (dataset_id, record_id, row, label, split,"
                    " excluded_revision, erased_at)"
                    f" VALUES (1, {values.format(row=row)}, {revision}, {erased})"
                )
            )
    schema.upgrade(bare_database)
    listed = "SELECT revision, row, standing FROM exclusions ORDER BY row"
    with bare_database.begin() as connection:
        assert [tuple(one) for one in connection.execute(text(listed))] == [
            (3, 1, False),
            (9, 2, True),
        ]
    schema.downgrade(bare_database, revision="0033")
    with bare_database.begin() as connection:
        kept = "SELECT row, excluded_revision FROM records ORDER BY row"
        assert [tuple(one) for one in connection.execute(text(kept))] == [(0, None), (1, 3), (2, 9)]


def test_rows_and_members_of_batches_come_and_go_with_their_migration(
    migrated_database: Engine,
) -> None:
    with db.session_factory(migrated_database).begin() as session:
        data = factories.dataset(session)
        model = factories.model(session, data)
        base = factories.version(session, model)
        batch = factories.batch(session, model, base, rows=[], members=[[2, 2], [4, 4]])
        batch.rows = [1, 3]
        for number, batch_id in ((2, batch.id), (3, None), (4, batch.id)):
            request = factories.request(session, data, rows=[number])
            factories.erasure(session, request, model, id=number, batch_id=batch_id)
    schema.downgrade(migrated_database, revision="0035")
    with migrated_database.connect() as connection:
        listed = connection.execute(text("SELECT row FROM batch_records ORDER BY row"))
        assert listed.scalars().all() == [1, 3]
    schema.upgrade(migrated_database)
    with db.session_factory(migrated_database)() as session:
        batch = session.scalars(select(Batch)).one()
        assert (batch.rows, batch.members) == (None, [[2, 4]])
        assert execution.rows(session, batch) == [1, 3]
        assert [one.id for one in execution.erasures_of(session, batch)] == [2, 4]
