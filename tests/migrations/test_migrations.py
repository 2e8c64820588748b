"""The migrations, on real databases of both kinds."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Engine, inspect, text

from service.ledger.audit import chain
from service.ledger.database import db, schema, tables
from tests import factories


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
