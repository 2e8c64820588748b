"""Classify database errors by what they mean for the transaction, and repeat aborted ones."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from service.ledger.database import storage

Given = ParamSpec("Given")
Made = TypeVar("Made")

#: SQLSTATEs of a transaction aborted in favour of another one: deadlock, serialization failure.
_VICTIMS = frozenset({"40P01", "40001"})
#: SQLSTATE of a statement that exceeded its lock timeout.
_LOCK_NOT_AVAILABLE = "55P03"


def is_victim(error: DBAPIError) -> bool:
    """Return whether the transaction was aborted in favour of another one and may be repeated."""
    return getattr(error.orig, "sqlstate", None) in _VICTIMS


def is_kept_waiting(error: DBAPIError) -> bool:
    """Return whether a lock was not granted in time, so that nothing was recorded."""
    if isinstance(error.orig, sqlite3.OperationalError):
        # The lower byte of an extended code is the code itself.
        return error.orig.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
    return getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE


def is_lost(error: DBAPIError) -> bool:
    """Return whether the database stopped answering: a COMMIT may have taken place."""
    if is_victim(error):
        return False
    if error.connection_invalidated:
        return True
    if getattr(error.orig, "sqlstate", None) is not None:
        return False  # PostgreSQL's own error, such as a lock timeout: it rolled back
    if storage.fault(error) in (storage.Fault.FULL, storage.Fault.READ_ONLY):
        return False  # SQLite's own error: it wrote nothing
    return isinstance(error, OperationalError | InterfaceError)


def repeated(transaction: Callable[Given, Made]) -> Callable[Given, Made]:
    """Call a function that is one transaction once more if the database aborted the first call.

    Everything else that the function does must be safe to repeat.
    """

    @functools.wraps(transaction)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        try:
            return transaction(*args, **kwargs)
        except DBAPIError as error:
            if not is_victim(error):
                raise
        return transaction(*args, **kwargs)

    return call
