"""Runs migrations on the connection it is handed, else on the database of the settings."""

from __future__ import annotations

from alembic import context
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from service.ledger.database import db, schema, tables
from service.settings import Settings


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=tables.Record.metadata,
        # SQLite rolls DDL back as well: the ledger's engine begins its transactions itself.
        transactional_ddl=True,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    schema.lock(connection)
    with context.begin_transaction():
        context.run_migrations()


def _run_on_the_settings_database() -> None:
    url = Settings().database
    schema.make_directory(url)
    engine = db.engine(url)
    try:
        with schema.begun(engine) as connection:
            _run(connection)
    finally:
        engine.dispose()


if context.is_offline_mode():
    raise CommandError("migrations look at the database they change; run them without --sql")
given = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    _run_on_the_settings_database()
