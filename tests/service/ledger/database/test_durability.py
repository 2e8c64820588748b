"""What the ledger asks of SQLite, outside of the tests, which do not wait for the disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import event

from service.ledger.database import db


def test_sqlite_flushes_each_commit_and_overwrites_what_is_deleted(tmp_path: Path) -> None:
    engine = db.engine(f"sqlite:///{tmp_path}/ledger.db")
    found: list[object] = []

    def made(connection: sqlite3.Connection, _entry: Any) -> None:
        found.extend(
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("synchronous", "secure_delete", "journal_mode")
        )

    event.listen(engine, "connect", made)  # after the ledger's own
    with engine.connect():
        pass
    engine.dispose()
    full = 2
    assert found == [full, 1, "wal"]
