"""The tables in the database, brought up to date by the migrations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.orm import Session

from service.ledger import db

#: Beside the packages, in a checkout and in an installation alike.
MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"

#: Key of the advisory lock under which PostgreSQL is migrated ("unlearn" in ASCII).
_LOCK_KEY = int.from_bytes(b"unlearn")


def upgrade(database: Engine | str, *, revision: str = "head") -> None:
    """Bring a database (an engine or its URL) up to ``revision``, in one transaction.

    Several may start at once: one migrates, the others wait for it and find nothing to do.
    """
    _migrate(database, lambda config: command.upgrade(config, revision))


def downgrade(database: Engine | str, *, revision: str) -> None:
    """Take a database back to ``revision``; ``base`` drops every table."""
    _migrate(database, lambda config: command.downgrade(config, revision))


def is_current(session: Session) -> bool:
    """Whether the database has every migration that this code knows, and no other."""
    context = MigrationContext.configure(session.connection())
    return set(context.get_current_heads()) == known_heads()


@cache
def known_heads() -> frozenset[str]:
    """The newest migrations that this code knows."""
    return frozenset(ScriptDirectory(str(MIGRATIONS)).get_heads())


def lock(connection: Connection) -> None:
    """Keep other migrations out until the connection's transaction ends.

    On SQLite nothing is needed: BEGIN IMMEDIATE already keeps every other writer out.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})


def make_directory(url: str) -> None:
    """Make the directory of a SQLite file, so that the first start needs no set-up."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
        Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)


def _migrate(database: Engine | str, run: Callable[[Config], None]) -> None:
    if isinstance(database, Engine):
        _run(database, run)
        return
    make_directory(database)
    engine = db.engine(database)
    try:
        _run(engine, run)
    finally:
        engine.dispose()


def _run(engine: Engine, run: Callable[[Config], None]) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        run(config)
