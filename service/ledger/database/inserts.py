"""Insert rows of several tables together: on PostgreSQL with one statement for all of them.

The statement is the same for one row and for a thousand, so that the server and SQLAlchemy prepare
it once, and there is one round trip: recording a group of requests is limited by round trips.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Table, TextClause, insert, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.orm import Session

from service.ledger.database.db import Base

#: Rows of one table, all with the same columns.
Rows = Sequence[Mapping[str, Any]]


def write(session: Session, rows: Mapping[type[Base], Rows]) -> None:
    """Insert rows; each table may only refer to earlier ones. Tables without rows are skipped."""
    given = {_table(kind): its for kind, its in rows.items() if its}
    if not given:
        return
    if session.get_bind().dialect.name == "postgresql":
        shapes = tuple((table, tuple(its[0])) for table, its in given.items())
        values = {f"rows_{n}": _json(its) for n, its in enumerate(given.values())}
        session.execute(_statement(shapes), values)
        return
    for table, its in given.items():
        session.execute(insert(table), list(its))


def upsert(session: Session, kind: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """Return an ``INSERT`` that supports an ``ON CONFLICT`` clause."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(kind)
    return sqlite.insert(kind)


def values(row: Base) -> dict[str, Any]:
    """Return an object's columns for an insert that bypasses the session's identity map.

    Columns that the database computes are left out.
    """
    return {name: getattr(row, name) for name in _names(type(row))}


@functools.cache
def _names(kind: type[Base]) -> tuple[str, ...]:
    return tuple(one.name for one in _table(kind).columns if one.computed is None)


def _table(kind: type[Base]) -> Table:
    table = kind.__table__
    assert isinstance(table, Table)
    return table


@functools.lru_cache(maxsize=256)
def _statement(shapes: tuple[tuple[Table, tuple[str, ...]], ...]) -> TextClause:
    """Return ``WITH … INSERT …`` for these tables and columns; rows are one JSON array each."""
    *first, last = [_insert(table, names, n) for n, (table, names) in enumerate(shapes)]
    with_first = ", ".join(f"insert_{n} AS ({one})" for n, one in enumerate(first))
    return text(f"WITH {with_first} {last}" if first else last)


def _insert(table: Table, names: Sequence[str], number: int) -> str:
    quoted = [_dialect.identifier_preparer.quote(name) for name in names]
    types = [table.columns[name].type.compile(_dialect) for name in names]
    shape = ", ".join(f"{name} {kind}" for name, kind in zip(quoted, types, strict=True))
    columns = ", ".join(quoted)
    return (
        f"INSERT INTO {table.name} ({columns}) SELECT {columns}"  # noqa: S608  # names of our own
        f" FROM json_to_recordset(CAST(:rows_{number} AS json)) AS given({shape})"
    )


_dialect = PGDialect()  # type: ignore[no-untyped-call]  # the driver has no types there


def _json(rows: Rows) -> str:
    return json.dumps(rows, default=_moment, separators=(",", ":"))


def _moment(value: object) -> str:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("the ledger takes time-zone aware moments only")
    return value.isoformat()
