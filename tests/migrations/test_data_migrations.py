"""What migrations make of the rows that are there, on real databases of both kinds."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import Engine, inspect, select, text

from service.ledger.batches import execution
from service.ledger.database import db, schema, tables
from service.ledger.database.tables import Batch, Dataset
from service.ledger.registry import methods
from service.messages import sampling
from tests import factories
from unlearning import inputs

pytestmark = pytest.mark.seconds


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
