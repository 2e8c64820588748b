"""Findings: violations of what completed deletion requests guarantee, according to the tables.

- No published version holds a record of a completed request.
- No request is completed while a model that was live with its records has not forgotten them.
- No raw row of a completed request is still stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, select
from sqlalchemy.orm import Session

from service.ledger.database.states import ErasureStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import (
    AliasMove,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    Version,
)
from service.ledger.obligations import shares
from service.ledger.registry import lineage, versions
from service.ledger.selection import naming

#: Values in one statement.
_VALUES = 1_000


class Kind(StrEnum):
    """Which guarantee is violated."""

    HELD = "held"  # a published version holds records of a completed request
    NOT_FORGOTTEN = "not_forgotten"  # a model was live with them and has no completed erasure
    UNFINISHED = "unfinished"  # a completed request has an open erasure
    STANDING = "standing"  # a raw row of a completed request was not erased


@dataclass(frozen=True, order=True)
class Finding:
    """A violation: the request, and the model or version that it concerns."""

    kind: Kind
    request: str
    model_id: int = 0
    version_id: int = 0
    #: The model's or version's name, for people.
    name: str | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"kind": self.kind.value, "request": self.request, "of": self.name}


def everything(session: Session) -> list[Finding]:
    """Return all violations in the ledger."""
    broken: set[Finding] = set()
    after = 0
    while (version := next_published(session, after)) is not None:
        broken |= of_version(session, version)
        after = version.id
    past = ""
    while names := next_completed(session, past):
        broken |= of_requests(session, names)
        past = names[-1]
    return sorted(broken)


def next_published(session: Session, after: int) -> Version | None:
    """Return the published version with the lowest id above ``after``, or None."""
    wanted = select(Version).where(_published(), Version.id > after)
    return session.scalars(wanted.order_by(Version.id).limit(1)).one_or_none()


def next_completed(session: Session, past: str) -> Sequence[str]:
    """Return the ids of the next completed requests after ``past``, for one statement."""
    wanted = select(DeletionRequest.id).where(
        DeletionRequest.status == RequestStatus.COMPLETED, DeletionRequest.id > past
    )
    return session.scalars(wanted.order_by(DeletionRequest.id).limit(_VALUES)).all()


def of_version(session: Session, version: Version) -> set[Finding]:
    """Return violations by a published version, without relying on its ``clean_revision``."""
    return held(session, version, since=version.data_revision)


def of_models(session: Session, names: Iterable[str]) -> set[Finding]:
    """Return violations by the published versions of these models."""
    found: set[Finding] = set()
    for some in pieces(names):
        for version in _versions(session, Model.name.in_(some), _published()):
            found |= held(session, version)
    return found


def of_requests(session: Session, names: Iterable[str]) -> set[Finding]:
    """Return violations of these requests, in a constant number of statements per thousand."""
    found: set[Finding] = set()
    for some in pieces(names):
        found |= _of_requests(session, some)
    return found


def pieces(values: Iterable[str]) -> Iterator[list[str]]:
    """Yield the values in pieces that a statement takes."""
    rest = iter(values)
    while piece := list(islice(rest, _VALUES)):
        yield piece


def _published() -> ColumnElement[bool]:
    return Version.status == VersionStatus.PUBLISHED


def _completed_of(
    session: Session, version: Version, model: Model, since: int | None
) -> Select[Any]:
    """Select the completed requests, each once, of whose records the version holds at least one."""
    naming_one = naming.naming(
        Record.dataset_id == model.dataset_id,
        lineage.contained_and_excluded(session, version, since=since),
    )
    return select(DeletionRequest.id).where(
        DeletionRequest.id.in_(naming_one), DeletionRequest.status == RequestStatus.COMPLETED
    )


def held(
    session: Session,
    version: Version,
    *,
    requests: Sequence[str] | None = None,
    since: int | None = None,
) -> set[Finding]:
    """Return completed requests (of those given) of whose records the version holds at least one.

    Only records excluded after the version's ``clean_revision``, or after the revision ``since``.
    """
    model = session.get_one(Model, version.model_id)
    wanted = _completed_of(session, version, model, since)
    if requests is not None:
        wanted = wanted.where(DeletionRequest.id.in_(requests))
    return {
        Finding(Kind.HELD, request_id, model.id, version.id, versions.subject(model, version))
        for request_id in session.scalars(wanted)
    }


def _of_requests(session: Session, names: Sequence[str]) -> set[Finding]:
    """Return violations of these requests, with as many statements for many as for one."""
    named = naming.records(
        Record.dataset_id, Record.row, Record.erased_at, Record.excluded_revision, requests=names
    ).subquery()
    standing = session.scalars(
        select(DeletionRequest.id)
        .join(named, named.c.request_id == DeletionRequest.id)
        .where(DeletionRequest.status == RequestStatus.COMPLETED, named.c.erased_at.is_(None))
        .distinct()
    )
    unfinished = session.scalars(
        select(Erasure.request_id)
        .join(DeletionRequest, DeletionRequest.id == Erasure.request_id)
        .where(
            Erasure.request_id.in_(names),
            shares.is_open(),
            DeletionRequest.status == RequestStatus.COMPLETED,
        )
        .distinct()
    )
    found = {Finding(Kind.STANDING, one) for one in standing}
    found |= {Finding(Kind.UNFINISHED, one) for one in unfinished}
    # A version whose anchor was trained after the last record was excluded holds none.
    excluded = session.execute(
        select(named.c.dataset_id, func.max(named.c.excluded_revision))
        .where(named.c.excluded_revision.is_not(None))
        .group_by(named.c.dataset_id)
    ).all()
    for dataset_id, revision in excluded:
        older = (Model.dataset_id == dataset_id, Version.data_revision < revision)
        for version in _versions(session, *older, _published()):
            found |= held(session, version, requests=names)
        missing = _not_forgotten(session, names, dataset_id)
        for version in _versions(session, *older, Model.id.in_(missing), _was_live()):
            left = _left(session, version)
            asked = [
                one for one, at in missing[version.model_id].items() if left is None or at <= left
            ]
            if not asked:
                continue
            found |= {
                Finding(Kind.NOT_FORGOTTEN, one.request, one.model_id, name=one.name)
                for one in held(session, version, requests=asked)
            }
    return found


def _versions(session: Session, *conditions: ColumnElement[bool]) -> Sequence[Version]:
    wanted = select(Version).join(Model, Model.id == Version.model_id).where(*conditions)
    return session.scalars(wanted.order_by(Version.id)).all()


def _was_live() -> ColumnElement[bool]:
    """Return SQL: ``Version`` is or was live and is not destroyed."""
    kept = Version.status.in_([VersionStatus.PUBLISHED, VersionStatus.RETIRED])
    return and_(kept, exists().where(AliasMove.version_id == Version.id))


def _not_forgotten(
    session: Session, names: Sequence[str], dataset_id: int
) -> dict[int, dict[str, datetime]]:
    """Return when requests without a completed erasure arrived, by live model and id."""
    forgotten = exists().where(
        Erasure.request_id == DeletionRequest.id,
        Erasure.model_id == Model.id,
        Erasure.status == ErasureStatus.COMPLETED,
    )
    pairs = session.execute(
        select(Model.id, DeletionRequest.id, DeletionRequest.created_at)
        .join(DeletionRequest, DeletionRequest.id.in_(names))
        .where(
            Model.dataset_id == dataset_id,
            Model.production_id.is_not(None),
            DeletionRequest.status == RequestStatus.COMPLETED,
            shares.about(dataset_id),
            ~forgotten,
        )
        .order_by(Model.id, DeletionRequest.id)
    )
    found: dict[int, dict[str, datetime]] = {}
    for model_id, request_id, created_at in pairs:
        found.setdefault(model_id, {})[request_id] = created_at
    return found


def _left(session: Session, version: Version) -> datetime | None:
    """Return when the version stopped being live; None if it is live."""
    if session.scalar(select(Model.id).where(Model.production_id == version.id)) is not None:
        return None
    return session.scalar(
        select(func.max(AliasMove.moved_at)).where(AliasMove.previous_id == version.id)
    )
