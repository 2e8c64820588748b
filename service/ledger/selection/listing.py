"""Lists of records: requests that matched exactly the same records share one.

A list has a row per record of a request (``RequestRecord``). It is stored under the id of the
request that was recorded first; the others refer to it (``DeletionRequest.listed_by``). It never
changes and is kept when that request ends, so requests do not affect each other. Two concurrent
transactions may each write a list of the same records; both lists are valid.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.ledger.database.tables import DeletionRequest

#: With fewer rows, writing a list is cheaper than looking for an equal one.
SHARED_FROM = 2


@dataclass(frozen=True)
class Named:
    """The records that a request is to list: rows by the dataset's id."""

    rows: tuple[tuple[int, tuple[int, ...]], ...]
    #: SHA-256 of the rows, 64 hex digits; None: too few to be shared.
    digest: str | None

    @classmethod
    def of(cls, rows: Mapping[int, tuple[int, ...]]) -> Self:
        """Return the rows, ascending, by the dataset's id; without datasets that have none."""
        given = tuple((dataset_id, its) for dataset_id, its in sorted(rows.items()) if its)
        shared = sum(len(its) for _, its in given) >= SHARED_FROM
        return cls(given, _digest(given) if shared else None)

    @property
    def count(self) -> int:
        """Return the number of rows."""
        return sum(len(its) for _, its in self.rows)


class Lists:
    """Which request lists which records, among recorded requests and those being recorded."""

    def __init__(self, session: Session, wanted: Iterable[Named]) -> None:
        digests = {one.digest for one in wanted if one.digest is not None}
        self._by_digest = _recorded(session, digests)

    def under(self, named: Named) -> str | None:
        """Return the id under which these records are listed already, or None."""
        return None if named.digest is None else self._by_digest.get(named.digest)

    def add(self, request_id: str, named: Named) -> None:
        """Record that a request lists these records."""
        if named.digest is not None:
            self._by_digest[named.digest] = request_id


def _recorded(session: Session, digests: set[str]) -> dict[str, str]:
    if not digests:
        return {}
    found = session.execute(
        select(DeletionRequest.rows_digest, func.min(DeletionRequest.id))
        .where(DeletionRequest.rows_digest.in_(sorted(digests)))
        .group_by(DeletionRequest.rows_digest)
    )
    return {digest: request_id for digest, request_id in found if digest is not None}


def _digest(rows: tuple[tuple[int, tuple[int, ...]], ...]) -> str:
    content = hashlib.sha256()
    for dataset_id, its in rows:
        content.update(array("q", (dataset_id, len(its), *its)).tobytes())
    return content.hexdigest()
