"""Locks on files: one of two transactions waits, and only where they mean the same file."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.ledger.database import file_locks

A, B = "a" * 64, "b" * 64


@pytest.mark.postgres
def test_a_file_is_locked_until_the_transaction_ends(postgres_database: Engine) -> None:
    with Session(postgres_database) as first, Session(postgres_database) as second:
        file_locks.hold(first, [B, A, A])
        second.execute(text("SET LOCAL lock_timeout = 50"))
        file_locks.hold(second, ["c" * 64])
        with pytest.raises(OperationalError, match="lock timeout"):
            file_locks.hold(second, [A])
        second.rollback()
        first.commit()
        file_locks.hold(second, [A, B])


def test_nothing_to_lock_is_no_statement(session: Session) -> None:
    file_locks.hold(session, [])
