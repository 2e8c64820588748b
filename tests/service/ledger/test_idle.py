"""A process that is suspended within a transaction does not hold its locks for ever."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import URL, Engine, text
from sqlalchemy.exc import DBAPIError

from service.ledger.batches import leases
from service.ledger.database import db
from tests.factories import NOW


@pytest.fixture
def hasty(postgres_url: URL) -> Iterator[Engine]:
    """Connections on which a transaction may stand idle for a tenth of a second."""
    limits = db.Limits(idle_seconds=0.1)
    engine = db.engine(postgres_url.render_as_string(hide_password=False), limits=limits)
    yield engine
    engine.dispose()


@pytest.mark.postgres
def test_idle_transaction_is_ended_and_its_locks_are_free(
    postgres_database: Engine, hasty: Engine
) -> None:
    suspended = db.session_factory(hasty)()
    held = leases.acquire(suspended, "model:1", owner="a", seconds=30, now=NOW)
    assert held is not None
    with db.session_factory(postgres_database).begin() as other:
        # Waits for the lock, which the server takes from the idle one.
        assert leases.acquire(other, "model:1", owner="b", seconds=30, now=NOW) is not None
    with pytest.raises(DBAPIError):
        suspended.execute(text("SELECT 1"))
    suspended.close()


@pytest.mark.postgres
def test_ordinary_connections_allow_a_minute(postgres_database: Engine) -> None:
    with postgres_database.connect() as connection:
        shown = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()
    assert shown == "1min"
