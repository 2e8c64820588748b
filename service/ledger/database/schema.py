"""The database schema, brought up to date by the migrations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.orm import Session

from service.errors import Unavailable
from service.ledger.database import db

#: Beside the packages, both in a checkout and in an installation.
MIGRATIONS = Path(__file__).resolve().parents[3] / "migrations"

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


class NotMigrated(Unavailable):
    """The database has no tables yet, or those of another version of the program."""

    code = "not-migrated"


def require(engine: Engine) -> None:
    """Raise ``NotMigrated`` unless the database exists and has exactly this code's schema."""
    found = require_any(engine)
    if not found <= known_revisions():
        raise NotMigrated(
            "the database was migrated by a newer version of this program; use that version"
        )
    if found != known_heads():
        raise NotMigrated("the database is not at the present schema; run: unlearn migrate")


def require_any(engine: Engine) -> frozenset[str]:
    """Raise ``NotMigrated`` unless the database has some schema; return its newest migrations."""
    path = _file(engine.url)
    if path is not None and not path.exists():  # connecting would create an empty file
        raise NotMigrated(
            f"there is no database at {path}; set UNLEARN_STATE_DIR to where it is, or make one "
            "with: unlearn migrate"
        )
    with Session(engine) as session:
        found = current_heads(db.read_only(session))
    if not found:
        raise NotMigrated("the database has no tables yet; make them with: unlearn migrate")
    return found


def current_heads(session: Session) -> frozenset[str]:
    """Return the newest migrations that the database has; none for an empty database."""
    context = MigrationContext.configure(session.connection())
    return frozenset(context.get_current_heads())


def is_current(session: Session) -> bool:
    """Return whether the database has every migration that this code knows, and no other."""
    return current_heads(session) == known_heads()


@cache
def known_revisions() -> frozenset[str]:
    """Return every migration that this code knows."""
    script = ScriptDirectory(str(MIGRATIONS))
    return frozenset(one.revision for one in script.walk_revisions())


@cache
def known_heads() -> frozenset[str]:
    """Return the newest migrations that this code knows."""
    return frozenset(ScriptDirectory(str(MIGRATIONS)).get_heads())


def lock(connection: Connection) -> None:
    """Keep other migrations out until the connection's transaction ends, without a time limit.

    On SQLite nothing is needed: BEGIN IMMEDIATE already keeps every other writer out.
    """
    if connection.dialect.name == "postgresql":
        db.take_time(connection, None)
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})


@contextmanager
def begun(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in a transaction for migrations, which may rebuild tables.

    SQLite cannot change a column: a migration creates the table anew, copies the rows and drops the
    old one, and must not cascade to other tables. Foreign keys are checked before the commit.
    """
    with engine.connect() as connection:
        sqlite = connection.dialect.name == "sqlite"
        if sqlite:  # on the driver's own connection: within a transaction it has no effect
            _on_driver(connection, "PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():
                yield connection
                if sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise RuntimeError("a migration left rows that refer to nothing")
        finally:
            if sqlite:
                _on_driver(connection, "PRAGMA foreign_keys = ON")


def _on_driver(connection: Connection, statement: str) -> None:
    driver: Any = connection.connection.dbapi_connection
    driver.execute(statement)


def make_directory(url: str) -> None:
    """Create the directory of a SQLite file, so that the first start needs no setup."""
    path = _file(make_url(url))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)


def _file(url: URL) -> Path | None:
    """Return the file of a SQLite database; None for any other."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database))


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
    with begun(engine) as connection:
        config.attributes["connection"] = connection
        run(config)
