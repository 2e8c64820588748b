"""Pooled connections are asked whether they are there only after a pause; and their limits."""

from __future__ import annotations

import pytest
from sqlalchemy import URL, Connection, Engine, text

from service.ledger.database import connections, db

pytestmark = pytest.mark.postgres


@pytest.mark.parametrize(("fresh_seconds", "asked"), [(3600.0, False), (0.0, True)])
def test_a_connection_that_answered_a_moment_ago_is_used_without_asking(
    postgres_url: URL,
    postgres_database: Engine,
    monkeypatch: pytest.MonkeyPatch,
    fresh_seconds: float,
    asked: bool,
) -> None:
    monkeypatch.setattr(connections, "FRESH_SECONDS", fresh_seconds)
    engine = db.engine(postgres_url.render_as_string(hide_password=False), pool_size=1)
    with engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    latest = text("SELECT query FROM pg_stat_activity WHERE pid = :pid")
    with engine.connect(), postgres_database.connect() as other:
        said = other.scalar(latest, {"pid": pid})
    engine.dispose()
    assert (said == "SELECT 1") is asked


def test_a_transaction_that_takes_its_time_waits_for_locks_as_long_as_for_anything(
    postgres_url: URL,
) -> None:
    limits = connections.Limits(statement_seconds=7, lock_seconds=3)
    engine = db.engine(postgres_url.render_as_string(hide_password=False), limits=limits)

    def limited(connection: Connection) -> list[str]:
        names = ("statement_timeout", "lock_timeout")
        return [str(connection.scalar(text(f"SHOW {name}"))) for name in names]

    with engine.connect() as connection:
        for seconds, expected in ((None, "0"), (90.0, "90s")):
            with connection.begin():
                db.take_time(connection, seconds)
                assert limited(connection) == [expected, expected]
            with connection.begin():
                assert limited(connection) == ["7s", "3s"]
    engine.dispose()
