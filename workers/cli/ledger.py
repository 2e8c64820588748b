"""Engines and sessions of the ledger for the commands of ``unlearn``."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from service.settings import Settings
from workers.cli.errors import err


def session() -> Session:
    """Return a session for an interactive command, with the time limits of an HTTP request."""
    return sessions()()


def sessions() -> sessionmaker[Session]:
    """Return the factory of such sessions, for a command with several transactions."""
    from service.ledger.database import db

    return db.session_factory(engine(Settings()))


def engine(settings: Settings) -> Engine:
    """Return the ledger's engine; stop the command if this code cannot use the database.

    The connection attempt has the time limit of an HTTP request.
    """
    from service.ledger.database import db, schema
    from service.ledger.database.connections import Limits

    found = db.engine(settings.database, limits=Limits.of_requests(settings))
    schema.require(found)
    return found


def bulk_engine(settings: Settings) -> Engine:
    """Return an engine with the long limit of statements over whole tables; print the limit."""
    from service.ledger.database import db
    from service.ledger.database.connections import Limits

    engine(settings).dispose()  # find out within the short limit whether the database answers
    made = db.engine(settings.database, limits=Limits.of_bulk(settings))
    if made.dialect.name == "postgresql":
        err.print(
            f"Each answer of the database may take up to {settings.database_bulk_seconds:g} s "
            "(UNLEARN_DATABASE_BULK_SECONDS)."
        )
    return made
