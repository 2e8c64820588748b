"""The ledger's database for the commands of ``unlearn``."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service.settings import Settings
from workers.cli.errors import err


def session() -> Session:
    """A session for a command that somebody waits for: it ends as soon as a request would."""
    from service.ledger.database import db

    return db.session_factory(engine(Settings()))()


def engine(settings: Settings) -> Engine:
    """The ledger's database; stops the command where there is none that this code can use.

    It is waited for as long as a request would wait.
    """
    from service.ledger.database import db, schema
    from service.ledger.database.connections import Limits

    found = db.engine(settings.database, limits=Limits.of_requests(settings))
    schema.require(found)
    return found


def bulk_engine(settings: Settings) -> Engine:
    """The same with the long limit of statements over everything there is, which is said."""
    from service.ledger.database import db
    from service.ledger.database.connections import Limits

    engine(settings).dispose()  # whether it is there is known soon
    made = db.engine(settings.database, limits=Limits.of_bulk(settings))
    if made.dialect.name == "postgresql":
        err.print(
            f"Each answer of the database may take up to {settings.database_bulk_seconds:g} s "
            "(UNLEARN_DATABASE_BULK_SECONDS)."
        )
    return made
