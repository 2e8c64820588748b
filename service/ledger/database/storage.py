"""Faults of the database's disk, distinguished from a database that does not answer."""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError

#: Free bytes below which the disk of a SQLite file counts as full: a commit may need that much.
LEAST_FREE_BYTES = 1 << 20

#: How long a fault of a statement is remembered: the next statement may come much later.
REMEMBERED_SECONDS = 30.0


class Fault(StrEnum):
    """What is wrong with the disk."""

    FULL = "full"
    READ_ONLY = "read_only"
    FAULTY = "faulty"  # it reports input/output errors


#: What happened, what still works and what to do.
DETAILS = {
    Fault.FULL: "the database's disk is full: nothing can be recorded now, and what was accepted "
    "before is safe; free some space on it, or give it more",
    Fault.READ_ONLY: "the database can only be read: nothing can be recorded now, and what was "
    "accepted before is safe; look why its disk or server refuses to write (an error of the disk, "
    "a standby server, access rights)",
    Fault.FAULTY: "the database's disk answers with errors: nothing can be recorded or looked up "
    "reliably now; look at the disk, and restore a backup if it is damaged",
}

#: By PostgreSQL's SQLSTATE: disk_full, read_only_sql_transaction, io_error.
_STATES = {"53100": Fault.FULL, "25006": Fault.READ_ONLY, "58030": Fault.FAULTY}

#: By SQLite's primary result code: SQLITE_FULL, SQLITE_READONLY, SQLITE_IOERR.
_CODES = {13: Fault.FULL, 8: Fault.READ_ONLY, 10: Fault.FAULTY}


def fault(error: BaseException | None) -> Fault | None:
    """Return the disk's fault if the database error reports one, else None."""
    said: Any = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(said, "sqlstate", None)
    if state is not None:
        return _STATES.get(state)
    code = getattr(said, "sqlite_errorcode", None)
    return None if code is None else _CODES.get(code & 0xFF)


class Watch:
    """Remembers for a while which fault the statements of an engine have met."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._met: tuple[Fault, float] | None = None
        event.listen(engine, "handle_error", self._notice)

    def seen(self) -> Fault | None:
        """Return the fault that was met recently, or that the disk shows now."""
        met = self._met
        if met is not None and time.monotonic() - met[1] < REMEMBERED_SECONDS:
            return met[0]
        return _of_file(self._engine)

    def _notice(self, context: Any) -> None:
        found = fault(context.original_exception)
        if found is not None:
            self._met = found, time.monotonic()


def _of_file(engine: Engine) -> Fault | None:
    """Return the fault that the file system of a SQLite file shows, or None."""
    name = engine.url.database
    if engine.dialect.name != "sqlite" or not name or not Path(name).exists():
        return None
    found = os.statvfs(Path(name).parent)
    if found.f_flag & os.ST_RDONLY:
        return Fault.READ_ONLY
    return Fault.FULL if found.f_bavail * found.f_frsize < LEAST_FREE_BYTES else None
