"""Pooled connections are asked whether they are there only after a pause."""

from __future__ import annotations

import pytest
from sqlalchemy import URL, Engine, text

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
