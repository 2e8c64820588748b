"""The ledger's database for the commands of ``unlearn``."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service.settings import Settings


def session() -> Session:
    """A session on the database of the settings."""
    from service.ledger import db

    return db.session_factory(engine(Settings()))()


def engine(settings: Settings) -> Engine:
    """The ledger's database; stops the command where there is none that this code can use."""
    from service.ledger import db, schema
    from service.ledger.connections import Limits

    found = db.engine(settings.database, limits=Limits.of_commands(settings))
    schema.require(found)
    return found
